-- How often a trigger could not tell what changed.
SELECT coalesce(pg_sequence_last_value('{cdc}.gap'::regclass), 0)
