-- What each role may see of the attached tables: columns (null: all), and the policies of row-level security that apply to
-- it (null: none, it sees every row). The first reader has no name and is the bridge itself. One row, two JSON documents; no
-- row without our schema. Nothing here takes a lock on a table of an application: policies.sql, which prints what policies
-- say, does, and is asked only for those of which the digest is new.
WITH RECURSIVE {reporting},
readers AS (
    SELECT NULL::text AS name, r.oid, r.rolsuper OR r.rolbypassrls AS sees_all
    FROM pg_roles r
    WHERE r.rolname = current_user
    UNION ALL
    SELECT r.rolname, r.oid, r.rolsuper OR r.rolbypassrls
    FROM pg_roles r
    WHERE r.rolname = ANY (%(roles)s)
        AND pg_has_role(session_user, r.oid, CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END)
),
attached AS MATERIALIZED (
    SELECT c.oid, c.relname, c.relnamespace, c.relowner, c.relrowsecurity, c.relforcerowsecurity
    FROM carrying
    JOIN pg_class c ON c.oid = carrying.oid
    WHERE NOT c.relispartition
),
-- The tables that a policy leads to, by subqueries, and by policies and views of what those read; but not by the other
-- policies of its own table.
led AS (
    SELECT p.oid AS policy, p.polrelid AS own, d.refobjid AS oid
    FROM attached t
    JOIN pg_policy p ON p.polrelid = t.oid
    JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass
    WHERE t.relrowsecurity AND p.polcmd IN ('r', '*')
    UNION
    SELECT led.policy, led.own, d.refobjid
    FROM led
    JOIN (
        SELECT polrelid AS oid, 'pg_policy'::regclass AS class, oid AS reading FROM pg_policy
        UNION ALL
        SELECT ev_class, 'pg_rewrite'::regclass, oid FROM pg_rewrite
    ) AS inside ON inside.oid = led.oid AND led.oid <> led.own
    JOIN pg_depend d ON d.classid = inside.class AND d.objid = inside.reading AND d.refclassid = 'pg_class'::regclass
),
policies AS MATERIALIZED (
    SELECT p.oid, p.polrelid, p.polname, p.polpermissive, p.polroles, p.polqual IS NULL AS says_nothing,
        -- Whole rows and system columns are not in images, and a record is not a row of the table.
        coalesce(p.polqual::text ~ ':varattno (0|-)', false) AS needs_whole_row,
        (SELECT coalesce(json_agg(DISTINCT a.attname), '[]')
         FROM pg_depend d
         JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
         WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid
            AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p.polrelid) AS columns,
        md5(concat_ws(' ', p.polqual::text, t.relname, (
            SELECT string_agg(fact, ',' ORDER BY fact COLLATE "C")
            FROM (
                SELECT concat_ws(' ', d.refobjid, d.refobjsubid, quote_ident(c.relname), quote_ident(n.nspname), c.relacl::text, c.relowner,
                    c.relrowsecurity, c.relforcerowsecurity, quote_ident(a.attname), a.attacl::text) AS fact
                FROM pg_depend d
                JOIN pg_class c ON c.oid = d.refobjid
                JOIN pg_namespace n ON n.oid = c.relnamespace
                LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass
                UNION ALL
                SELECT concat_ws(' ', 'led to', c.oid, c.relacl::text, c.relowner, c.relrowsecurity, c.relforcerowsecurity,
                    (SELECT string_agg(concat_ws(' ', v.oid, v.xmin), ' ' ORDER BY v.oid) FROM pg_rewrite v WHERE v.ev_class = c.oid),
                    other.oid, other.xmin, (
                        -- Whom of the readers it is about: who is a member of whom.
                        SELECT string_agg(quote_ident(r.name), ' ' ORDER BY r.name COLLATE "C")
                        FROM readers r
                        WHERE EXISTS (
                            SELECT FROM unnest(other.polroles) AS meant(oid)
                            WHERE meant.oid <> 0 AND pg_has_role(r.oid, meant.oid, 'USAGE'))))
                FROM led
                JOIN pg_class c ON c.oid = led.oid
                LEFT JOIN pg_policy other ON other.polrelid = c.oid
                WHERE led.policy = p.oid AND led.oid <> p.polrelid
                UNION ALL
                -- Names too: policies are printed once, and what is printed calls things by names.
                SELECT concat_ws(' ', 'function', f.oid, f.xmin, quote_ident(n.nspname), quote_ident(f.proname))
                FROM pg_depend d
                JOIN pg_proc f ON f.oid = d.refobjid
                JOIN pg_namespace n ON n.oid = f.pronamespace
                WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_proc'::regclass
                UNION ALL
                SELECT concat_ws(' ', 'type', y.oid, quote_ident(n.nspname), quote_ident(y.typname), (
                    SELECT string_agg(concat_ws(' ', e.oid, quote_ident(e.enumlabel)), ' ' ORDER BY e.oid)
                    FROM pg_enum e
                    WHERE e.enumtypid IN (y.oid, y.typelem, y.typbasetype)))
                FROM pg_depend d
                JOIN pg_type y ON y.oid = d.refobjid
                JOIN pg_namespace n ON n.oid = y.typnamespace
                WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_type'::regclass
                UNION ALL
                SELECT concat_ws(' ', 'operator', o.oid, quote_ident(n.nspname), o.oprname)
                FROM pg_depend d
                JOIN pg_operator o ON o.oid = d.refobjid
                JOIN pg_namespace n ON n.oid = o.oprnamespace
                WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_operator'::regclass
            ) AS facts))) AS digest
    FROM attached t
    JOIN pg_policy p ON p.polrelid = t.oid
    WHERE t.relrowsecurity AND p.polcmd IN ('r', '*')
)
SELECT
    (SELECT coalesce(json_agg(json_build_object('reader', r.name, 'table', t.oid::bigint,
        'columns', CASE
            WHEN NOT has_schema_privilege(r.oid, t.relnamespace, 'USAGE') THEN '[]'
            WHEN has_table_privilege(r.oid, t.oid, 'SELECT') THEN NULL
            ELSE (SELECT coalesce(json_agg(a.attname ORDER BY a.attnum), '[]')
                FROM pg_attribute a
                WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
                    AND has_column_privilege(r.oid, t.oid, a.attnum, 'SELECT'))
            END,
        'policies', CASE
            WHEN t.relrowsecurity AND NOT r.sees_all AND (t.relforcerowsecurity OR NOT pg_has_role(r.oid, t.relowner, 'USAGE'))
            THEN (SELECT coalesce(json_agg(p.oid::bigint ORDER BY p.oid), '[]')
                FROM policies p
                WHERE p.polrelid = t.oid AND EXISTS (
                    SELECT FROM unnest(p.polroles) AS meant(oid) WHERE meant.oid = 0 OR pg_has_role(r.oid, meant.oid, 'USAGE')))
            END) ORDER BY r.name NULLS FIRST, t.oid), '[]')
     FROM readers r CROSS JOIN attached t)::text AS tables,
    (SELECT coalesce(json_agg(json_build_object('oid', oid::bigint, 'name', polname, 'is_permissive', polpermissive,
        'says_nothing', says_nothing, 'needs_whole_row', needs_whole_row, 'columns', columns, 'digest', digest) ORDER BY oid), '[]')
     FROM policies)::text AS policies
FROM pg_namespace ours
WHERE ours.nspname = %(schema)s
