-- Every attached table with its columns, key, foreign keys, excluded columns, revision and the tables that report under
-- it, and every type and collation that those columns need: one row, three JSON documents; no row without our schema.
-- A table is attached when it has a trigger of ours and is no partition, and no former one either.
WITH RECURSIVE {reporting},
attached AS MATERIALIZED (
    SELECT c.oid, n.nspname, c.relname, ARRAY(
        -- The arguments are bytes, each ended by a zero: spell them in hex, pair by pair, to split there.
        -- Each is 'number:name', and excludes both the name and the column that has the number now.
        SELECT unnest(ARRAY[substr(argument.text, strpos(argument.text, ':') + 1), a.attname])
        FROM regexp_split_to_table(regexp_replace(arguments, '(..)', '\1 ', 'g'), '00 ') AS hex
        CROSS JOIN LATERAL convert_from(decode(replace(hex, ' ', ''), 'hex'), current_setting('server_encoding')) AS argument(text)
        LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = split_part(argument.text, ':', 1)::int2
        WHERE hex <> '' AND argument.text <> '0:'
    ) AS excluded
    FROM carrying
    JOIN pg_class c ON c.oid = carrying.oid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE NOT c.relispartition
),
columns AS MATERIALIZED (
    SELECT r.oid, a.attname, a.attnum, a.atttypid, a.attcollation, NOT a.attnotnull OR EXISTS (
        -- PostgreSQL 18 has constraints that older rows need not meet.
        SELECT FROM pg_constraint k
        WHERE k.conrelid = a.attrelid AND k.contype = 'n' AND k.conkey = ARRAY[a.attnum] AND NOT k.convalidated
    ) AS is_nullable
    FROM attached r
    JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE a.attname <> ALL (r.excluded)
),
columns_of AS MATERIALIZED (
    SELECT c.oid, json_agg(json_build_array(c.attname, c.attnum, c.atttypid::bigint, c.attcollation::bigint, c.is_nullable)
        ORDER BY c.attnum) AS columns
    FROM columns c
    GROUP BY c.oid
),
-- A partition names its columns like its table, but may have them in another order.
names AS MATERIALIZED (
    SELECT m.root, m.oid, array_agg(a.attname ORDER BY a.attnum) AS names
    FROM tree m
    JOIN attached r ON r.oid = m.root
    JOIN pg_attribute a ON a.attrelid = m.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE (m.oid <> m.root OR m.relkind = 'p') AND a.attname <> ALL (r.excluded)
    GROUP BY m.root, m.oid
),
orders AS MATERIALIZED (
    SELECT own.root AS oid, json_agg(json_build_array(own.oid::bigint, own.names) ORDER BY own.oid) AS orders
    FROM names own
    JOIN names whole ON whole.oid = own.root
    WHERE own.names <> whole.names
    GROUP BY own.root
),
references_of AS MATERIALIZED (
    SELECT k.conrelid AS oid, json_agg(json_build_array(own.attname, k.confrelid::bigint, other.attname) ORDER BY k.oid) AS references
    FROM pg_constraint k
    JOIN columns own ON own.oid = k.conrelid AND own.attnum = k.conkey[1]
    JOIN columns other ON other.oid = k.confrelid AND other.attnum = k.confkey[1]
    WHERE k.contype = 'f' AND cardinality(k.conkey) = 1
    GROUP BY k.conrelid
),
filenodes_of AS MATERIALIZED (
    SELECT root AS oid, json_agg(json_build_array(oid::bigint, coalesce(pg_relation_filenode(oid), 0)::bigint) ORDER BY oid) AS filenodes
    FROM tree
    GROUP BY root
),
-- In the log are all changes of a table only when every trigger that reports under it writes there.
durable AS MATERIALIZED (
    SELECT m.root AS oid, bool_and(t.durable) AS durable
    FROM tree m JOIN triggers t ON t.tgrelid = m.oid
    GROUP BY m.root
),
revision AS MATERIALIZED (
    SELECT root AS oid, md5(string_agg(fact, ',' ORDER BY fact COLLATE "C")) AS digest
    FROM revisions
    GROUP BY root
),
-- Where a collation comes from, and what its locale is called: the database's own one is told by pg_database, and the
-- columns that say it have had several names.
collations AS (
    SELECT l.oid, n.nspname, l.collname, l.collisdeterministic,
        CASE WHEN l.collprovider = 'd' THEN coalesce(of_database.facts ->> 'datlocprovider', 'c') ELSE l.collprovider::text END AS provider,
        CASE WHEN l.collprovider = 'd'
            THEN coalesce(of_database.facts ->> 'datlocale', of_database.facts ->> 'daticulocale', of_database.facts ->> 'datcollate')
            ELSE coalesce(of_collation.facts ->> 'colllocale', of_collation.facts ->> 'colliculocale', of_collation.facts ->> 'collcollate')
            END AS locale,
        CASE WHEN l.collprovider = 'd'
            THEN coalesce(of_database.facts ->> 'datlocale', of_database.facts ->> 'daticulocale', of_database.facts ->> 'datctype')
            ELSE coalesce(of_collation.facts ->> 'colllocale', of_collation.facts ->> 'colliculocale', of_collation.facts ->> 'collctype')
            END AS ctype
    FROM pg_collation l
    JOIN pg_namespace n ON n.oid = l.collnamespace
    CROSS JOIN LATERAL to_jsonb(l) AS of_collation(facts)
    CROSS JOIN (SELECT to_jsonb(d) FROM pg_database d WHERE d.datname = current_database()) AS of_database(facts)
    WHERE l.oid IN (SELECT attcollation FROM columns)
),
needed AS (
    SELECT DISTINCT atttypid AS oid FROM columns
    UNION
    SELECT part.oid
    FROM needed
    JOIN pg_type t ON t.oid = needed.oid
    CROSS JOIN LATERAL (
        SELECT t.typbasetype AS oid WHERE t.typbasetype <> 0
        UNION ALL
        SELECT t.typelem WHERE t.typelem <> 0 AND t.typsubscript = 'array_subscript_handler'::regproc
        UNION ALL
        SELECT a.atttypid FROM pg_attribute a
        WHERE a.attrelid = t.typrelid AND t.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped
    ) AS part
)
SELECT
    (SELECT coalesce(json_agg(json_build_object(
        'oid', r.oid::bigint, 'schema', r.nspname, 'name', r.relname,
        'excluded', (SELECT coalesce(json_agg(DISTINCT name), '[]') FROM unnest(r.excluded) AS name WHERE name IS NOT NULL),
        'columns', coalesce(c.columns, '[]'),
        'key', (SELECT coalesce(json_agg(a.attname ORDER BY k.position), '[]')
            FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(number, position)
            JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = k.number
            WHERE i.indrelid = r.oid AND i.indisprimary AND k.position <= i.indnkeyatts),
        'references', coalesce(f.references, '[]'),
        'filenodes', n.filenodes,
        'orders', coalesce(o.orders, '[]'),
        'revision', revision.digest,
        'durable', durable.durable
        ) ORDER BY r.nspname, r.relname), '[]')
     FROM attached r LEFT JOIN columns_of c USING (oid) LEFT JOIN orders o USING (oid) JOIN revision USING (oid)
        LEFT JOIN references_of f USING (oid) JOIN filenodes_of n USING (oid) JOIN durable USING (oid))::text AS collections,
    (SELECT coalesce(json_agg(json_build_object(
        'oid', t.oid::bigint, 'name', format_type(t.oid, NULL), 'base', t.typbasetype::bigint,
        'element', CASE WHEN t.typsubscript = 'array_subscript_handler'::regproc THEN t.typelem::bigint ELSE 0 END,
        'fields', (SELECT coalesce(json_agg(json_build_array(a.attname, a.atttypid::bigint) ORDER BY a.attnum), '[]')
            FROM pg_attribute a
            WHERE a.attrelid = t.typrelid AND t.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped),
        'labels', (SELECT coalesce(json_agg(e.enumlabel ORDER BY e.enumsortorder), '[]') FROM pg_enum e WHERE e.enumtypid = t.oid)
        ) ORDER BY t.oid), '[]')
     FROM needed JOIN pg_type t USING (oid))::text AS types,
    (SELECT coalesce(json_agg(json_build_object(
        'oid', l.oid::bigint, 'schema', l.nspname, 'name', l.collname, 'is_deterministic', l.collisdeterministic,
        -- Where the order of bytes is that of code points.
        'is_bytewise', (l.provider = 'b' OR l.provider = 'c' AND l.locale IN ('C', 'POSIX')) AND getdatabaseencoding() IN ('UTF8', 'LATIN1'),
        -- Whose i has a dot in upper case, too.
        'has_plain_ascii', l.ctype !~* '^(tr|az|crh|ku|tt|lt)([-_@.]|$)') ORDER BY l.oid), '[]')
     FROM collations l)::text AS collations
FROM pg_namespace ours
WHERE ours.nspname = %(schema)s
