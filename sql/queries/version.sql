-- Whether our schema is there (its oid) and whether the function that tells its version is.
SELECT n.oid::bigint,
    (SELECT p.oid::bigint FROM pg_catalog.pg_proc p WHERE p.pronamespace = n.oid AND p.proname = 'version' AND p.pronargs = 0),
    pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
    pg_catalog.pg_has_role(n.nspowner, 'USAGE'),
    pg_catalog.pg_get_userbyid(n.nspowner)
FROM pg_catalog.pg_namespace n
WHERE n.nspname = %(schema)s
