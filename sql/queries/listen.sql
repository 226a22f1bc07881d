-- LISTEN to the channel without spelling its name: pg_stat_activity shows the last statement of a session to more roles than
-- may know it.
DO $listen$
BEGIN
    EXECUTE format('LISTEN %I', 'cdc_' || pg_sequence_last_value('{cdc}.channel'::regclass));
END
$listen$
