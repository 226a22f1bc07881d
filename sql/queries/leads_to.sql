-- Part of dependencies, and nothing by itself: what one thing (`here`) leads to.
--
-- PostgreSQL has written down what policies, views, functions with BEGIN ATOMIC and checks of domains use. Of other functions it has
-- not: one leads to whatever its text names, to all casts that somebody has made, and to everything (`0`) where it puts statements
-- together or spells a name by its characters' numbers. One in C leads nowhere. A function that asks for rights leads to
-- everything too, and so does a policy: what they are on is named by a text.
SELECT d.refclassid AS class, d.refobjid AS oid
FROM pg_depend d
WHERE here.class <> 'pg_class'::regclass AND d.classid = here.class AND d.objid = here.oid
    AND d.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass)
UNION ALL
SELECT d.refclassid, d.refobjid
FROM pg_constraint c
JOIN pg_depend d ON d.classid = 'pg_constraint'::regclass AND d.objid = c.oid AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)
WHERE here.class = 'pg_type'::regclass AND c.contypid = here.oid
UNION ALL
SELECT 'pg_policy'::regclass, p.oid
FROM pg_policy p
WHERE here.class = 'pg_class'::regclass AND p.polrelid = here.oid AND p.polcmd IN ('r', '*')
UNION ALL
SELECT 0, 0
FROM (
    SELECT p.polqual::text FROM pg_policy p WHERE here.class = 'pg_policy'::regclass AND p.oid = here.oid
    UNION ALL
    SELECT w.ev_action::text FROM pg_rewrite w WHERE here.class = 'pg_rewrite'::regclass AND w.oid = here.oid
    UNION ALL
    SELECT f.prosqlbody::text FROM pg_proc f WHERE here.class = 'pg_proc'::regclass AND f.oid = here.oid
) AS compiled(tree)
CROSS JOIN LATERAL regexp_matches(tree, ':funcid (\d+)', 'g') AS called(ids)
JOIN pg_proc f ON f.oid = ids[1]::oid AND f.proname LIKE 'has\_%%\_privilege'
UNION ALL
SELECT 'pg_rewrite'::regclass, w.oid
FROM pg_rewrite w
WHERE here.class = 'pg_class'::regclass AND w.ev_class = here.oid
UNION ALL
SELECT 'pg_proc'::regclass, o.oprcode
FROM pg_operator o
WHERE here.class = 'pg_operator'::regclass AND o.oid = here.oid
UNION ALL
SELECT meant.class, meant.oid
FROM (
    SELECT lower(f.prosrc COLLATE "C") AS body, f.prosrc ~* '\m(execute|has_\w+_privilege)\M|u&"' AS puts_together
    FROM pg_proc f
    JOIN pg_language l ON l.oid = f.prolang
    WHERE here.class = 'pg_proc'::regclass AND f.oid = here.oid AND f.prosqlbody IS NULL AND l.lanname NOT IN ('internal', 'c')
    OFFSET 0
) AS text
CROSS JOIN LATERAL (
    SELECT named.class, named.oid
    FROM (SELECT DISTINCT regexp_split_to_table(body, '[^\w$]+')) AS words(word)
    JOIN named ON named.is_word AND named.name = left(word, 63)
    WHERE NOT puts_together
    UNION ALL
    SELECT named.class, named.oid
    FROM named
    WHERE NOT named.is_word AND strpos(body, named.name) > 0 AND NOT puts_together
    UNION ALL
    SELECT 'pg_proc'::regclass, x.castfunc
    FROM pg_cast x
    WHERE x.castfunc >= 16384
    UNION ALL
    SELECT 0, 0
    WHERE puts_together
) AS meant
