-- What the log holds that a snapshot did not see and that is visible now, in the order of seq (and rows of one statement in the order
-- in which it wrote them, as far as the clock tells them apart), the snapshot of now, and whether something of it may have been
-- forgotten. One row at least. Rows past some size come without their text; past the limit they do not come.
--
-- The tables of the log are locked before the snapshot is taken. So who empties one has done so before, and this sees the note of
-- it, or waits until this is through.
SELECT now.snapshot, now.is_suspect, fresh.seq, fresh.xid, fresh.relation, fresh.filenode, fresh.operation, fresh.at, fresh.size, fresh.old, fresh.new
FROM (
    SELECT pg_current_snapshot()::text AS snapshot, EXISTS (
        SELECT FROM {cdc}.forgotten
        WHERE coalesce(youngest::text::int8, pg_snapshot_xmax(seen)::text::int8 - 1) >= %(xmin)s::text::int8
    ) AS is_suspect
) AS now
LEFT JOIN LATERAL (
    SELECT (log.seq - '0/0'::pg_lsn)::int8 AS seq, log.xid::text::int8 AS xid, log.relation::int8 AS relation,
        log.filenode::int8 AS filenode, log.operation::text AS operation, (date_part('epoch', log.at) * 1000000)::int8 AS at,
        coalesce(octet_length(log.old), 0) + coalesce(octet_length(log.new), 0) AS size,
        CASE WHEN coalesce(octet_length(log.old), 0) + coalesce(octet_length(log.new), 0) <= %(text_bytes_max)s THEN log.old END AS old,
        CASE WHEN coalesce(octet_length(log.old), 0) + coalesce(octet_length(log.new), 0) <= %(text_bytes_max)s THEN log.new END AS new
    FROM {cdc}.change_log AS log
    WHERE (log.xid >= %(xmax)s::text::xid8 OR log.xid = ANY(%(in_progress)s::text[]::xid8[])) AND log.relation <> ALL(%(apart)s::oid[])
    ORDER BY log.seq, log.xid, log.at
    LIMIT %(rows_max)s
) AS fresh ON true
