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
