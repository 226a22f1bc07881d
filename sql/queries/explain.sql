-- What explain asks: what the log and the table have of one row.

-- name: row_history
-- What the log has of some tables and can be about a row, by the text of a part of its key (LIKE), the newest first; and each TRUNCATE.
SELECT (log.seq - '0/0'::pg_lsn)::int8, log.xid::text::int8, log.relation::int8, log.filenode::int8, log.operation::text,
    (date_part('epoch', log.at) * 1000000)::int8, log.old, log.new
FROM {cdc}.change_log AS log
WHERE log.relation = ANY(%(relations)s::oid[])
  AND (log.operation = 'T' OR log.new COLLATE "C" LIKE ANY(%(patterns)s::text[]) OR log.old COLLATE "C" LIKE ANY(%(patterns)s::text[]))
ORDER BY log.seq DESC, log.xid DESC, log.at DESC

-- name: log_reach
-- Up to which transaction the log has forgotten something (null: nothing), how many gaps there were, and which transaction made or
-- altered a trigger of ours on some tables last (one of the last 2^32).
SELECT (SELECT max(coalesce(youngest::text::int8, pg_snapshot_xmax(seen)::text::int8 - 1)) FROM {cdc}.forgotten),
    coalesce(pg_sequence_last_value('{cdc}.gap'::regclass), 0),
    (SELECT max(now.xid - ((now.xid - t.xmin::text::int8) & 4294967295))
     FROM pg_trigger t
     WHERE t.tgrelid = ANY(%(relations)s::oid[]) AND starts_with(t.tgname, %(prefix)s))
FROM (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int8 AS xid) AS now

-- name: row_now
-- A row as it stands, the transaction that wrote it, and the snapshot that this is seen in; the snapshot alone without such a row.
SELECT now.snapshot::text, found.xid, found.item
FROM (SELECT pg_current_snapshot() AS snapshot) AS now
LEFT JOIN LATERAL (
    SELECT pg_snapshot_xmax(now.snapshot)::text::int8
            - ((pg_snapshot_xmax(now.snapshot)::text::int8 - t.xmin::text::int8) & 4294967295) AS xid,
        (SELECT row_to_json(v.*)::text FROM (SELECT {columns}) AS v) AS item
    FROM {table}
    WHERE {condition}
) AS found ON true
