-- What stands in our schema and is not ours.
SELECT c.relname
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND NOT (c.relkind = 'S' AND c.relname IN ('seq', 'gap', 'channel'))
UNION ALL
SELECT p.proname
FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = %(schema)s
  AND p.proname NOT IN ('capture', 'capture_row', 'reserve', 'send', 'version', 'visible_columns')
LIMIT 1
