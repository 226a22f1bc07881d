-- A snapshot of which a later reading sees all that it sees. On a standby PostgreSQL does not tell which transactions are in
-- progress, so it is asked of each id from the oldest one in progress to the next one to be assigned.
SELECT CASE WHEN NOT pg_is_in_recovery() THEN now.snapshot::text ELSE concat(now.xmin, ':', greatest(now.next, now.xmin), ':', (
    SELECT string_agg(xid::text, ',')
    FROM generate_series(now.xmin, now.next - 1) AS xid
    WHERE pg_xact_status(xid::text::xid8) = 'in progress')) END
FROM (
    SELECT snapshot, pg_snapshot_xmin(snapshot)::text::int8 AS xmin,
        pg_snapshot_xmin(snapshot)::text::int8 + age(pg_snapshot_xmin(snapshot)::xid) AS next
    FROM pg_current_snapshot() AS snapshot
) AS now
