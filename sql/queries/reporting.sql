-- Part of catalog and fingerprint, and nothing by itself: our triggers (`triggers`), the tables that carry some, whatever a
-- former partition still carries left aside (`carrying`), each attached table with itself and all partitions under it
-- (`tree`), and what may have changed in these without any change of a row being told (`revisions`).
--
-- Neither this nor the two queries may take a lock on a table of an application, or one ALTER TABLE that takes its time
-- makes every collection stand still. So pg_partition_tree(), which locks, is not for us; a test in test_catalog.py watches.
triggers AS MATERIALIZED (
    SELECT t.tgrelid, t.oid, t.xmin AS version, t.tgenabled, t.tgname, encode(t.tgargs, 'hex') AS arguments,
        starts_with(p.proname, 'capture_durable') AS durable
    FROM pg_namespace f
    JOIN pg_proc p ON p.pronamespace = f.oid AND (p.proname IN ('capture', 'capture_row') OR starts_with(p.proname, 'capture_durable'))
    JOIN pg_trigger t ON t.tgfoid = p.oid
    WHERE f.nspname = %(schema)s AND starts_with(t.tgname, %(prefix)s)
),
carrying AS MATERIALIZED (
    SELECT tgrelid AS oid, min(arguments) AS arguments
    FROM triggers
    WHERE NOT starts_with(tgname, %(partition_prefix)s)
    GROUP BY tgrelid
),
tree AS (
    SELECT c.oid AS root, c.oid, c.relkind, NULL::xid AS attached
    FROM carrying
    JOIN pg_class c ON c.oid = carrying.oid
    WHERE NOT c.relispartition
    UNION ALL
    SELECT tree.root, c.oid, c.relkind, i.xmin
    FROM tree
    JOIN pg_inherits i ON i.inhparent = tree.oid
    JOIN pg_class c ON c.oid = i.inhrelid
    WHERE tree.relkind = 'p' AND NOT i.inhdetachpending
),
revisions AS (
    SELECT tree.root, concat_ws(' ', t.tgrelid, t.oid, t.version, t.tgenabled, t.durable) AS fact
    FROM tree
    JOIN triggers t ON t.tgrelid = tree.oid
    UNION ALL
    -- A partition that is attached anew can have been altered meanwhile: its columns have other names or another order.
    SELECT tree.root, concat_ws(' ', 'partition', tree.oid, tree.attached) FROM tree WHERE tree.attached IS NOT NULL
    UNION ALL
    -- What a virtual column computes is told by the oid of its expression, which is stored anew when it changes.
    SELECT tree.root, d.oid::text
    FROM tree
    JOIN pg_attribute a ON a.attrelid = tree.oid AND a.attnum > 0 AND a.attgenerated = 'v' AND NOT a.attisdropped
    JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
)
