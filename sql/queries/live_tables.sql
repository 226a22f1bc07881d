-- The tables with a trigger of ours that can only notify; of partitions, their root.
SELECT DISTINCT n.nspname, c.relname
FROM pg_trigger t
JOIN pg_proc p ON p.oid = t.tgfoid
JOIN pg_namespace f ON f.oid = p.pronamespace
JOIN pg_class c ON c.oid = coalesce(pg_partition_root(t.tgrelid), t.tgrelid)
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE f.nspname = %(schema)s AND p.proname IN ('capture', 'capture_row') AND starts_with(t.tgname, %(prefix)s)
ORDER BY n.nspname, c.relname
