-- Which of our sequences this role may not read. PostgreSQL 17 and newer say NULL of the last value of those, instead of refusing, and a
-- gap would pass unnoticed.
WITH ours AS MATERIALIZED (
    SELECT c.oid, c.relname
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relkind = 'S' AND c.relname <> 'seq'
)
SELECT relname
FROM ours
WHERE NOT (has_sequence_privilege(oid, 'SELECT') OR has_sequence_privilege(oid, 'USAGE'))
ORDER BY relname
