-- What is wrong with the change log: one row a problem, with its kind, what it is about, and a word more. None where there
-- is no log yet (version 1). It reads catalogs only, so every role may ask, and nobody is waited for.
WITH ours AS MATERIALIZED (
    SELECT n.oid FROM pg_namespace n
    WHERE n.nspname = %(schema)s AND EXISTS (SELECT FROM pg_proc p
        WHERE p.pronamespace = n.oid AND (p.proname = 'forget_segment' OR starts_with(p.proname, 'capture_durable')))
),
-- The role that our triggers run as; more than one when somebody has given a function away.
runner AS MATERIALIZED (
    SELECT DISTINCT p.proowner AS oid, pg_get_userbyid(p.proowner) AS name
    FROM ours JOIN pg_proc p ON p.pronamespace = ours.oid
    WHERE p.proname = ANY(%(functions)s::name[])
),
wanted(name, kind) AS (
    SELECT 'change_log_' || number, 'r'::"char" FROM generate_series(0, 7) AS number
    UNION ALL
    VALUES ('change_log', 'v'::"char"), ('forgotten', 'r'), ('segment', 'r'), ('errand', 'r'), ('setting', 'r'), ('secret', 'r'), ('generation', 'r'),
        ('seq', 'S'), ('gap', 'S'), ('channel', 'S'), ('segment_bytes', 'S'), ('closed', 'S'), ('gate', 'S'), ('lease', 'S'), ('mended', 'S'), ('gap_logged', 'S')
),
found AS MATERIALIZED (
    SELECT w.name, w.kind, c.oid, c.relpersistence, c.relrowsecurity
    FROM ours
    CROSS JOIN wanted w
    LEFT JOIN pg_class c ON c.relnamespace = ours.oid AND c.relname = w.name AND c.relkind = w.kind
),
segments AS MATERIALIZED (SELECT * FROM found WHERE starts_with(name, 'change_log_') AND oid IS NOT NULL)
SELECT 'missing' AS kind, name, '' AS detail FROM found WHERE oid IS NULL
UNION ALL
SELECT 'missing', f.name, ''
FROM ours
CROSS JOIN unnest(%(functions)s::text[]) AS f(name)
WHERE NOT EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = ours.oid AND p.proname = f.name)
UNION ALL
SELECT 'columns', s.name, ''
FROM segments s
WHERE (SELECT string_agg(concat(quote_ident(a.attname), ' ', format_type(a.atttypid, a.atttypmod),
        CASE WHEN a.attnotnull THEN ' NOT NULL' END), ', ' ORDER BY a.attnum)
    FROM pg_attribute a WHERE a.attrelid = s.oid AND a.attnum > 0 AND NOT a.attisdropped)
    IS DISTINCT FROM 'seq pg_lsn NOT NULL, xid xid8 NOT NULL, at timestamp with time zone NOT NULL, relation oid NOT NULL, '
        'filenode oid NOT NULL, operation "char" NOT NULL, old text, new text'
UNION ALL
SELECT 'unlogged', name, '' FROM segments WHERE relpersistence <> 'p'
UNION ALL
SELECT 'added', name, 'row-level security' FROM segments WHERE relrowsecurity
UNION ALL
SELECT 'added', s.name, format('trigger "%%s"', t.tgname)
FROM segments s JOIN pg_trigger t ON t.tgrelid = s.oid WHERE NOT t.tgisinternal
UNION ALL
-- Since PostgreSQL 18 NOT NULL is a constraint too; the columns have told of it.
SELECT 'added', s.name, format('constraint "%%s"', c.conname)
FROM segments s JOIN pg_constraint c ON c.conrelid = s.oid WHERE c.contype <> 'n'
UNION ALL
SELECT 'added', s.name, format('rule "%%s"', r.rulename)
FROM segments s JOIN pg_rewrite r ON r.ev_class = s.oid
UNION ALL
SELECT 'added', s.name, format('unique index "%%s"', i.indexrelid::regclass)
FROM segments s JOIN pg_index i ON i.indrelid = s.oid
WHERE i.indisunique AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid)
UNION ALL
SELECT 'view', v.name, ''
FROM found v
WHERE v.name = 'change_log' AND v.oid IS NOT NULL
  AND (SELECT count(*) FROM segments) > (SELECT count(DISTINCT d.refobjid)
    FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
    JOIN segments s ON d.refclassid = 'pg_class'::regclass AND s.oid = d.refobjid
    WHERE r.ev_class = v.oid)
UNION ALL
SELECT 'right', f.name, format('%%s "%%s"', wanted.privilege, runner.name)
FROM found f
CROSS JOIN runner
CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('TRUNCATE')) AS wanted(privilege)
WHERE f.oid IN (SELECT oid FROM segments) AND NOT has_table_privilege(runner.oid, f.oid, wanted.privilege)
UNION ALL
SELECT 'right', f.name, format('%%s "%%s"', wanted.privilege, runner.name)
FROM found f
CROSS JOIN runner
CROSS JOIN (VALUES ('USAGE'), ('UPDATE')) AS wanted(privilege)
WHERE f.kind = 'S' AND f.oid IS NOT NULL AND NOT has_sequence_privilege(runner.oid, f.oid, wanted.privilege)
ORDER BY 1, 2, 3
