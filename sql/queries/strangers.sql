-- What stands in our schema and is not ours. Indexes are not looked at: they are where their tables are.
SELECT c.relname
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relkind NOT IN ('i', 'I')
  AND (c.relkind, c.relname) NOT IN (
      VALUES ('S'::"char", 'seq'::name), ('S', 'gap'), ('S', 'channel'), ('S', 'segment_bytes'), ('S', 'closed'), ('S', 'gate'), ('S', 'lease'), ('S', 'mended'), ('S', 'gap_logged'),
          ('v', 'change_log'), ('r', 'forgotten'), ('r', 'segment'), ('r', 'errand'), ('r', 'setting'), ('r', 'secret'), ('r', 'generation'),
          ('r', 'change_log_0'), ('r', 'change_log_1'), ('r', 'change_log_2'), ('r', 'change_log_3'),
          ('r', 'change_log_4'), ('r', 'change_log_5'), ('r', 'change_log_6'), ('r', 'change_log_7'))
UNION ALL
SELECT p.proname
FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = %(schema)s AND p.proname <> ALL (%(functions)s::name[])
  AND NOT starts_with(p.proname, 'capture_durable')
LIMIT 1
