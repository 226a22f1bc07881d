-- The life of the database that positions belong to, and the key with which they are sealed.
SELECT token, seal_key FROM {cdc}.begin_era()
