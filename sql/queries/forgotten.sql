-- What was forgotten of the log: the oldest and the youngest transaction of each segment that was emptied, who emptied it, and
-- who had ended by then; where the youngest is not older than an id that everything older than has been told of. If it is asked for,
-- a segment that somebody has changed by hand, which is not noted yet, can have lost anything.
SELECT coalesce(oldest, '0'::xid8)::text::int8, coalesce(youngest::text::int8, pg_snapshot_xmax(seen)::text::int8 - 1),
    by::text::int8, seen::text
FROM {cdc}.forgotten
WHERE coalesce(youngest::text::int8, pg_snapshot_xmax(seen)::text::int8 - 1) >= %(xmin)s::text::int8
UNION ALL
SELECT 0, 9223372036854775807, 0, pg_current_snapshot()::text
WHERE %(by_hand)s::bool AND EXISTS (SELECT FROM {cdc}.changed_segments())
