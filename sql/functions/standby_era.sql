-- What begin_era() says, on a hot standby, where nothing can be written and an UNLOGGED table cannot be read: the life of the
-- database is told by the system, the history of its WAL, and where the schema lives.
CREATE OR REPLACE FUNCTION {cdc}.standby_era(OUT token text, OUT seal_key text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $standby_era$
DECLARE
    checkpointed int;
    recovered int;
BEGIN
    IF has_function_privilege('pg_control_checkpoint()', 'EXECUTE') THEN
        SELECT timeline_id INTO checkpointed FROM pg_control_checkpoint();
    END IF;
    IF has_function_privilege('pg_control_recovery()', 'EXECUTE') THEN
        SELECT min_recovery_end_timeline INTO recovered FROM pg_control_recovery();
    END IF;
    SELECT md5(concat_ws(' ', {cdc}.home(), s.key::text, greatest(checkpointed, recovered)))::uuid::text, array_to_string(s.key, '')
    INTO token, seal_key
    FROM {cdc}.secret s;
END
$standby_era$;

REVOKE ALL ON FUNCTION {cdc}.standby_era() FROM PUBLIC;
