-- What begin_era() says, on a hot standby, where nothing can be written and an UNLOGGED table cannot be read: the life of the
-- database is told by the system, the history of its WAL, and where the schema lives.
SELECT md5(concat_ws(' ', {cdc}.home(), s.key::text, greatest(
    CASE WHEN has_function_privilege('pg_control_checkpoint()', 'EXECUTE') THEN (SELECT timeline_id FROM pg_control_checkpoint()) END,
    CASE WHEN has_function_privilege('pg_control_recovery()', 'EXECUTE') THEN (SELECT min_recovery_end_timeline FROM pg_control_recovery()) END)
    ))::uuid::text, array_to_string(s.key, '')
FROM {cdc}.secret AS s
