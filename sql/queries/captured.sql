-- Every table that carries a trigger of ours, each with the root of its partition tree (itself when there is none).
SELECT DISTINCT c.oid::bigint AS oid, coalesce(pg_partition_root(c.oid), c.oid)::oid::bigint AS root
FROM pg_trigger t
JOIN pg_proc p ON p.oid = t.tgfoid
JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN pg_class c ON c.oid = t.tgrelid
WHERE n.nspname = %(schema)s AND (p.proname IN ('capture', 'capture_row') OR starts_with(p.proname, 'capture_durable')) AND starts_with(t.tgname, %(prefix)s)
ORDER BY oid
