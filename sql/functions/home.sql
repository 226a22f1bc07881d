-- Where this schema lives: another one after a dump was restored, be it in the same database, or the database was copied.
CREATE OR REPLACE FUNCTION {cdc}.home() RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $home$
DECLARE
    system text := '';
BEGIN
    IF has_function_privilege('pg_control_system()', 'EXECUTE') THEN
        SELECT system_identifier::text INTO system FROM pg_control_system();
    END IF;
    RETURN concat_ws(' ', system, (SELECT oid FROM pg_database WHERE datname = current_database()),
        '{cdc}.setting'::regclass::oid, '{cdc}.generation'::regclass::oid);
END
$home$;

REVOKE ALL ON FUNCTION {cdc}.home() FROM PUBLIC;
