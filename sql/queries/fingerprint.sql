-- A digest of what catalog.sql shows, without the JSON: names, columns, keys, foreign keys, excluded columns, storage, revisions, and
-- the makers' types; PostgreSQL's own (below 16384) do not change. No row without our schema.
-- Facts are added up as numbers of 64 bits, since to sort them takes longer than to find them.
WITH RECURSIVE {reporting},
columns AS MATERIALIZED (
    SELECT a.attrelid, a.attnum, a.atttypid, a.attcollation, a.attname
    FROM carrying r
    JOIN pg_attribute a ON a.attrelid = r.oid
    WHERE a.attnum > 0 AND NOT a.attisdropped
),
needed AS (
    SELECT atttypid AS oid FROM columns WHERE atttypid >= 16384
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
facts AS (
    SELECT concat_ws(' ', 'table', c.oid, quote_ident(n.nspname), quote_ident(c.relname), r.arguments, i.indkey,
        i.indnkeyatts) AS fact
    FROM carrying r
    JOIN pg_class c ON c.oid = r.oid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_index i ON i.indrelid = r.oid AND i.indisprimary
    WHERE NOT c.relispartition
    UNION ALL
    SELECT concat_ws(' ', 'column', attrelid, attnum, atttypid, attcollation, attname) FROM columns
    UNION ALL
    SELECT concat_ws(' ', 'reference', k.oid, k.conrelid, k.conkey, k.confrelid, k.confkey)
    FROM carrying r
    JOIN pg_constraint k ON k.conrelid = r.oid AND k.contype = 'f'
    UNION ALL
    SELECT concat_ws(' ', 'storage', root, oid, pg_relation_filenode(oid)) FROM tree
    UNION ALL
    SELECT concat_ws(' ', 'revision', root, fact) FROM revisions
    UNION ALL
    SELECT concat_ws(' ', 'type', t.oid, format_type(t.oid, NULL), t.typbasetype, t.typelem,
        (SELECT string_agg(concat_ws(' ', a.attnum, a.atttypid, quote_ident(a.attname)), ',' ORDER BY a.attnum)
         FROM pg_attribute a
         WHERE a.attrelid = t.typrelid AND t.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped),
        (SELECT string_agg(quote_literal(e.enumlabel), ',' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid))
    FROM needed
    JOIN pg_type t USING (oid)
)
SELECT (SELECT concat_ws(' ', count(*), sum(hashtextextended(fact COLLATE "C", 0))) FROM facts)
FROM pg_namespace ours
WHERE ours.nspname = %(schema)s
