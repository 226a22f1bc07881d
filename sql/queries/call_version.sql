-- The version of our SQL in this database, where the function that tells it is there.
SELECT {cdc}.version()
