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

-- name: session_id
-- The process id of the server session that a transaction runs in. Nothing is set by then, so names are spelled in full.
SELECT pg_catalog.pg_backend_pid()

-- name: watch
-- With each heartbeat: the heartbeat itself, a notification that takes the way of the triggers' and comes after all that its snapshot
-- sees (none without a head); the gate, whose lease is extended when it is wanted open; the gaps, those that are known to be mended,
-- the recorded decision on notifying, a snapshot, whether somebody has emptied or replaced a segment of the log by hand, and whether
-- something may have been forgotten that a transaction of some id or a younger one wrote. The gate is looked at after the snapshot.
SELECT CASE WHEN %(head)s::text IS NOT NULL
        THEN pg_notify('cdc_' || pg_sequence_last_value('{cdc}.channel'::regclass), %(head)s::text || pg_current_snapshot()::text)::text END,
    CASE WHEN %(lease_s)s::float8 > 0 THEN {cdc}.open_gate(%(lease_s)s::float8) ELSE pg_sequence_last_value('{cdc}.gate'::regclass) END,
    coalesce(pg_sequence_last_value('{cdc}.gap'::regclass), 0), coalesce(pg_sequence_last_value('{cdc}.mended'::regclass), 0),
    (SELECT value FROM {cdc}.setting WHERE name = 'notify'), pg_current_snapshot()::text,
    EXISTS (SELECT FROM {cdc}.changed_segments()),
    EXISTS (SELECT FROM {cdc}.forgotten WHERE coalesce(youngest::text::int8, pg_snapshot_xmax(seen)::text::int8 - 1) >= %(unchecked)s::text::int8)

-- name: detached
-- Of partitions, each with the table that it was one of, those that are none any more.
SELECT m.oid::bigint
FROM ROWS FROM (pg_catalog.unnest(%(members)s::text[]::oid[]), pg_catalog.unnest(%(roots)s::text[]::oid[])) AS m(oid, root)
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_partition_ancestors(m.oid) AS a(oid) WHERE a.oid = m.root)

-- name: name_session
-- What pg_stat_activity calls this session.
SELECT pg_catalog.set_config('application_name', %(name)s, false)
