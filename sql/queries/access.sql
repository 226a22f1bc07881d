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
{dependencies},
policies AS MATERIALIZED (
    SELECT p.oid, p.polrelid, p.polname, p.polpermissive, p.polroles, p.polqual IS NULL AS says_nothing, md5(p.polqual::text) AS text_digest,
        -- Whole rows and system columns are not in images, and a record is not a row of the table.
        coalesce(p.polqual::text ~ ':varattno (0|-)', false) AS needs_whole_row,
        (SELECT coalesce(json_agg(DISTINCT a.attname), '[]')
         FROM pg_depend d
         JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
         WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid
            AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p.polrelid) AS columns,
        md5(concat_ws(' ', p.polqual::text, t.relname, dependencies.digest)) AS digest
    FROM to_judge
    JOIN pg_policy p ON p.oid = to_judge.policy
    JOIN attached t ON t.oid = to_judge.own
    LEFT JOIN dependencies ON dependencies.policy = p.oid
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
        'says_nothing', says_nothing, 'text_digest', text_digest, 'needs_whole_row', needs_whole_row, 'columns', columns, 'digest', digest) ORDER BY oid), '[]')
     FROM policies)::text AS policies
FROM pg_namespace ours
WHERE ours.nspname = %(schema)s
