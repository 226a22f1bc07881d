-- The number that names the channel; null when only the schema of the database was restored.
SELECT pg_sequence_last_value('{cdc}.channel'::regclass)::text
