-- A hash of what catalog.sql shows, without the JSON: names, columns, keys, excluded columns, storage, triggers, and the
-- makers' types; PostgreSQL's own (below 16384) do not change. No row without our schema.
WITH RECURSIVE {reporting},
columns AS MATERIALIZED (
    SELECT r.oid, string_agg(concat_ws(' ', a.attnum, a.atttypid, quote_ident(a.attname)), ',' ORDER BY a.attnum) AS shape,
        array_agg(a.atttypid) FILTER (WHERE a.atttypid >= 16384) AS own_types
    FROM carrying r
    JOIN pg_attribute a ON a.attrelid = r.oid
    WHERE a.attnum > 0 AND NOT a.attisdropped
    GROUP BY r.oid
),
needed AS (
    SELECT unnest(own_types) AS oid FROM columns
    UNION
    SELECT part.oid
    FROM needed
    JOIN pg_type t ON t.oid = needed.oid
    CROSS JOIN LATERAL (
        SELECT t.typbasetype AS oid
        UNION ALL
        SELECT t.typelem
        UNION ALL
        SELECT a.atttypid FROM pg_attribute a
        WHERE a.attrelid = t.typrelid AND t.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped
    ) AS part
    WHERE part.oid >= 16384
),
filenodes AS MATERIALIZED (
    SELECT root, string_agg(concat_ws(' ', oid, pg_relation_filenode(oid)), ',' ORDER BY oid) AS filenodes
    FROM tree
    GROUP BY root
),
facts AS (
    SELECT concat_ws(' ', c.oid, quote_ident(n.nspname), quote_ident(c.relname), r.arguments, columns.shape,
        i.indkey, i.indnkeyatts, filenodes.filenodes, revisions.revision) AS fact
    FROM carrying r
    JOIN pg_class c ON c.oid = r.oid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN columns ON columns.oid = r.oid
    LEFT JOIN pg_index i ON i.indrelid = r.oid AND i.indisprimary
    JOIN filenodes ON filenodes.root = r.oid
    JOIN revisions ON revisions.root = r.oid
    WHERE NOT c.relispartition
    UNION ALL
    SELECT concat_ws(' ', t.oid, format_type(t.oid, NULL), t.typbasetype, t.typelem,
        (SELECT string_agg(concat_ws(' ', a.attnum, a.atttypid, quote_ident(a.attname)), ',' ORDER BY a.attnum)
         FROM pg_attribute a
         WHERE a.attrelid = t.typrelid AND t.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped),
        (SELECT string_agg(quote_literal(e.enumlabel), ',' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid))
    FROM needed
    JOIN pg_type t USING (oid)
)
SELECT md5(coalesce((SELECT string_agg(fact, E'\n' ORDER BY fact COLLATE "C") FROM facts), ''))
FROM pg_namespace ours
WHERE ours.nspname = %(schema)s
