-- A cast to json that somebody makes for a type of theirs runs inside of our triggers, with the rights of the owner role, when a
-- table has a column of that type. Who owns such a table could so read the log. An event trigger, which only a superuser
-- can make, leaves such casts to superusers. DROP SCHEMA {guard} CASCADE removes it.
DO $guard$
BEGIN
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = CURRENT_USER) THEN
        RAISE NOTICE 'only a superuser can forbid casts to json, by which the owner of an attached table could get the rights of the owner role';
        RETURN;
    END IF;
    CREATE SCHEMA IF NOT EXISTS {guard};
    CREATE OR REPLACE FUNCTION {guard}.refuse_casts_to_json() RETURNS event_trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $function$
    BEGIN
        IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = CURRENT_USER) AND EXISTS (
                SELECT FROM pg_event_trigger_ddl_commands() AS command
                JOIN pg_cast x ON command.classid = 'pg_cast'::regclass AND x.oid = command.objid
                WHERE x.casttarget = 'json'::regtype AND x.castmethod = 'f') THEN
            RAISE insufficient_privilege USING MESSAGE = 'a cast to json would run with the rights of the role that captures changes',
                HINT = 'A superuser can make it.';
        END IF;
    END
    $function$;
    IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'cdc_bridge_refuse_casts_to_json') THEN
        CREATE EVENT TRIGGER cdc_bridge_refuse_casts_to_json ON ddl_command_end WHEN TAG IN ('CREATE CAST')
            EXECUTE FUNCTION {guard}.refuse_casts_to_json();
    END IF;
END
$guard$;
