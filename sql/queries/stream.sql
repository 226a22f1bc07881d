-- What the stream of changes asks: gate, heartbeats, eras and channels.

-- name: announce_shut
-- Tell the bridges that nobody notifies from here on. Before the gate is shut, and in a transaction of its own.
SELECT pg_notify('cdc_' || pg_sequence_last_value('{cdc}.channel'::regclass), E'2 S\n')

-- name: open_gate
-- Let writers notify. NULL where the operator has decided that nobody does.
SELECT {cdc}.open_gate(%(lease_s)s)

-- name: shut_gate
-- Let writers notify no longer.
SELECT {cdc}.shut_gate()

-- name: begin_era
-- The life of the database that positions belong to, and the key with which they are sealed.
SELECT token, seal_key FROM {cdc}.begin_era()

-- name: standby_era
-- What begin_era() says, on a hot standby.
SELECT token, seal_key FROM {cdc}.standby_era()

-- name: standby_watch
-- As `watch`, on a hot standby: whether it still is one, and the gaps.
SELECT pg_is_in_recovery(), coalesce(pg_sequence_last_value('{cdc}.gap_logged'::regclass), 0),
    coalesce(pg_sequence_last_value('{cdc}.mended'::regclass), 0)

-- name: channel
-- The number that names the channel; null when only the schema of the database was restored.
SELECT pg_sequence_last_value('{cdc}.channel'::regclass)::text

-- name: listen
-- LISTEN to the channel without spelling its name: pg_stat_activity shows the last statement of a session to more roles than
-- may know it.
DO $listen$
BEGIN
    EXECUTE format('LISTEN %I', 'cdc_' || pg_sequence_last_value('{cdc}.channel'::regclass));
END
$listen$

-- name: gap
-- How often a trigger could not tell what changed.
SELECT coalesce(pg_sequence_last_value('{cdc}.gap'::regclass), 0)

-- name: mended
-- Remember that the gaps up to this one are mended: everybody who could have made one has ended.
SELECT setval('{cdc}.mended'::regclass, %(counter)s)

-- name: new_xid
-- An id that is younger than that of every transaction which has one already. A snapshot does not tell: its xmax is the
-- youngest that has ended, and who has begun since is not in it.
SELECT pg_current_xact_id()::text::bigint

-- name: notify
-- Whether anything notifies in this database, as the operator has decided.
SELECT value FROM {cdc}.setting WHERE name = 'notify'

-- name: settled_snapshot
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
