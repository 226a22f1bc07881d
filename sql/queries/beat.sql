-- A heartbeat: a notification that takes the way of the triggers' and comes after all that its snapshot sees.
SELECT pg_notify('cdc_' || pg_sequence_last_value('{cdc}.channel'::regclass), %(head)s || pg_current_snapshot()::text)
