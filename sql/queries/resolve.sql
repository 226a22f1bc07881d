-- The relation that a person's text names: first as it is written, then as PostgreSQL reads it.
SELECT c.oid::bigint
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  AND (c.relname = %(text)s AND (n.nspname = 'public' OR n.oid = pg_my_temp_schema())
    OR n.nspname || '.' || c.relname = %(text)s
    OR n.nspname = %(parts_schema)s AND c.relname = %(parts_name)s)
ORDER BY n.nspname = 'public' AND c.relname = %(text)s DESC, n.nspname || '.' || c.relname = %(text)s DESC
LIMIT 1
