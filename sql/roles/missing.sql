-- What the recorded runtime role lacks of its rights on our schema, as far as there is what they are on.
WITH {recorded},
{rights}
SELECT runtime.rolname, rights.kind, rights.name, rights.privilege
FROM runtime
CROSS JOIN rights
JOIN pg_namespace n ON n.nspname = %(schema)s
LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = rights.name AND rights.kind IN ('TABLE', 'SEQUENCE')
LEFT JOIN pg_proc p ON p.pronamespace = n.oid AND p.proname = rights.name AND rights.kind = 'FUNCTION'
WHERE NOT CASE rights.kind
    WHEN 'SCHEMA' THEN has_schema_privilege(runtime.oid, n.oid, rights.privilege)
    WHEN 'TABLE' THEN has_table_privilege(runtime.oid, c.oid, rights.privilege)
    WHEN 'SEQUENCE' THEN has_sequence_privilege(runtime.oid, c.oid, rights.privilege)
    ELSE has_function_privilege(runtime.oid, p.oid, rights.privilege)
END
ORDER BY rights.kind, rights.name
