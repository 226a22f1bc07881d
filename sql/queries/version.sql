-- The schema of that name, if it is there: whether it is one of ours (which its comment says, or our functions in it),
-- whether it has the function that tells its version, whether we may use it and change it, whether it is our own, and whose it is.
SELECT
    coalesce(pg_catalog.starts_with(pg_catalog.obj_description(n.oid, 'pg_namespace'), 'cdc_bridge: '), false) OR (
        SELECT pg_catalog.count(*) = 3 FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = n.oid AND p.proname IN ('capture', 'capture_row', 'version') AND p.pronargs = 0),
    EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.pronamespace = n.oid AND p.proname = 'version' AND p.pronargs = 0),
    pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
    pg_catalog.pg_has_role(n.nspowner, 'USAGE'),
    pg_catalog.pg_get_userbyid(n.nspowner) = CURRENT_USER,
    pg_catalog.pg_get_userbyid(n.nspowner)
FROM pg_catalog.pg_namespace n
WHERE n.nspname = %(schema)s
