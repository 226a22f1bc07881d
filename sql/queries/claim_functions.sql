-- The functions in SQL that anybody may have written, without arguments, as a policy may call them: schema, name, type of
-- the result, body, settings. A body that was compiled is printed; a string is returned as it is, and read anew at each
-- call. Names are to mean PostgreSQL's own, see session.sql.
SELECT
    n.nspname::text,
    p.proname::text,
    format_type(p.prorettype, NULL),
    coalesce(pg_get_function_sqlbody(p.oid), p.prosrc),
    coalesce(p.proconfig, '{{}}')
FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN pg_language l ON l.oid = p.prolang
WHERE l.lanname = 'sql' AND p.prokind = 'f' AND p.pronargs = 0 AND NOT p.proretset
    AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(temp|toast)'
ORDER BY 1, 2
