-- After a heartbeat: the gate, whose lease is extended when it is wanted open, the gaps, those that are known to be mended, the
-- recorded decision on notifying, a snapshot, and whether somebody has emptied or replaced a segment of the log by hand.
SELECT CASE WHEN %(lease_s)s::float8 > 0 THEN {cdc}.open_gate(%(lease_s)s::float8) ELSE pg_sequence_last_value('{cdc}.gate'::regclass) END,
    coalesce(pg_sequence_last_value('{cdc}.gap'::regclass), 0), coalesce(pg_sequence_last_value('{cdc}.mended'::regclass), 0),
    (SELECT value FROM {cdc}.setting WHERE name = 'notify'), pg_current_snapshot()::text,
    EXISTS (SELECT FROM {cdc}.changed_segments())
