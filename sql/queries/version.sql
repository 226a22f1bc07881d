-- Our schema, if it is there: whether it has the function that tells its version, whether we may use it, whether it is
-- ours to change, and whose it is.
SELECT
    EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.pronamespace = n.oid AND p.proname = 'version' AND p.pronargs = 0),
    pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
    pg_catalog.pg_has_role(n.nspowner, 'USAGE'),
    pg_catalog.pg_get_userbyid(n.nspowner)
FROM pg_catalog.pg_namespace n
WHERE n.nspname = %(schema)s
