-- Every attached table with its columns, key, excluded columns and the tables that report under it, and every type
-- that those columns need: one row, two JSON documents.
-- A table is attached when it has our three triggers and is no partition.
WITH RECURSIVE attached AS (
    SELECT c.oid, n.nspname, c.relname,
        -- The arguments are bytes, each argument ended by a zero: spell them in hex, pair by pair, to split there.
        (SELECT coalesce(array_agg(convert_from(decode(replace(argument, ' ', ''), 'hex'), getdatabaseencoding())), '{{}}')
         FROM regexp_split_to_table(regexp_replace(encode(min(t.tgargs), 'hex'), '(..)', '\1 ', 'g'), '00 ') AS argument
         WHERE argument <> '') AS excluded
    FROM pg_trigger t
    JOIN pg_class c ON c.oid = t.tgrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_proc p ON p.oid = t.tgfoid
    WHERE p.pronamespace = to_regnamespace(%(schema)s) AND p.proname IN ('capture', 'capture_row')
      AND NOT t.tgisinternal AND NOT c.relispartition
    GROUP BY c.oid, n.nspname, c.relname
),
columns AS (
    SELECT r.oid, a.attname, a.attnum, a.atttypid, a.atttypmod
    FROM attached r
    JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE NOT EXISTS (
        SELECT FROM unnest(r.excluded) AS e
        WHERE split_part(e, ':', 1) = a.attnum::text OR substr(e, strpos(e, ':') + 1) = a.attname)
),
needed AS (
    SELECT atttypid AS oid FROM columns
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
        'oid', r.oid::bigint, 'schema', r.nspname, 'name', r.relname, 'excluded', r.excluded,
        'columns', (SELECT coalesce(json_agg(json_build_object('name', c.attname, 'number', c.attnum,
                'type', c.atttypid::bigint, 'type_name', format_type(c.atttypid, c.atttypmod)) ORDER BY c.attnum), '[]')
            FROM columns c WHERE c.oid = r.oid),
        'key', (SELECT coalesce(json_agg(a.attname ORDER BY k.position), '[]')
            FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(number, position)
            JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = k.number
            WHERE i.indrelid = r.oid AND i.indisprimary AND k.position <= i.indnkeyatts),
        'filenodes', (SELECT json_agg(json_build_array(m.relid::oid::bigint,
                coalesce(pg_relation_filenode(m.relid), 0)::bigint) ORDER BY m.relid::oid)
            FROM (SELECT relid FROM pg_partition_tree(r.oid) UNION SELECT r.oid::regclass) AS m)
        ) ORDER BY r.nspname, r.relname), '[]')
     FROM attached r) AS collections,
    (SELECT coalesce(json_agg(json_build_object(
        'oid', t.oid::bigint, 'name', format_type(t.oid, NULL), 'base', t.typbasetype::bigint,
        'element', CASE WHEN t.typsubscript = 'array_subscript_handler'::regproc THEN t.typelem::bigint ELSE 0 END,
        'fields', (SELECT coalesce(json_agg(json_build_array(a.attname, a.atttypid::bigint) ORDER BY a.attnum), '[]')
            FROM pg_attribute a
            WHERE a.attrelid = t.typrelid AND t.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped)
        ) ORDER BY t.oid), '[]')
     FROM needed JOIN pg_type t USING (oid)) AS types
