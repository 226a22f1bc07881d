-- What is asked of the change log: its rows, its segments, and what is no longer in it.

-- name: log_session
-- The settings of a session that reads the log. Its tables have no statistics, since nobody analyses them, and the planner
-- would rather read them from end to end; and to plan a query for its parameters takes four times as long as to run it.
-- Workers take longer to be started than the rest. Once a session.
SELECT pg_catalog.set_config('enable_seqscan', 'off', false), pg_catalog.set_config('jit', 'off', false),
    pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', false),
    pg_catalog.set_config('max_parallel_workers_per_gather', '0', false)

-- name: log_rows
-- Rows of the log by transaction and seq; those of one statement in the order in which it wrote them, as `log_new`.
SELECT (log.seq - '0/0'::pg_lsn)::int8, log.xid::text::int8, log.relation::int8, log.filenode::int8, log.operation::text,
    (date_part('epoch', log.at) * 1000000)::int8, log.old, log.new
FROM {cdc}.change_log AS log
WHERE log.xid = ANY(%(xids)s::text[]::xid8[]) AND log.relation = ANY(%(relations)s::oid[])
  AND log.seq BETWEEN '0/0'::pg_lsn + %(first)s::numeric AND '0/0'::pg_lsn + %(last)s::numeric
ORDER BY log.seq, log.xid, log.at

-- name: log_keys
-- What of some tables the log holds that one snapshot did not see and another one does, from some seq on, without the text.
SELECT (log.seq - '0/0'::pg_lsn)::int8, log.xid::text::int8, coalesce(octet_length(log.old), 0) + coalesce(octet_length(log.new), 0)
FROM {cdc}.change_log AS log
WHERE (log.xid >= %(xmax)s::text::xid8 OR log.xid = ANY(%(in_progress)s::text[]::xid8[]))
  AND pg_visible_in_snapshot(log.xid, %(upto)s::text::pg_snapshot) AND log.relation = ANY(%(relations)s::oid[])
  AND log.seq >= '0/0'::pg_lsn + %(seq)s::numeric
ORDER BY log.seq, log.xid
LIMIT %(rows_max)s

-- name: log_sizes
-- How much of each table the log holds that one snapshot did not see and another one does.
SELECT log.relation::int8, count(*), sum(coalesce(octet_length(log.old), 0) + coalesce(octet_length(log.new), 0))::int8
FROM {cdc}.change_log AS log
WHERE (log.xid >= %(xmax)s::text::xid8 OR log.xid = ANY(%(in_progress)s::text[]::xid8[]))
  AND pg_visible_in_snapshot(log.xid, %(upto)s::text::pg_snapshot) AND log.relation <> ALL(%(apart)s::oid[])
GROUP BY log.relation

-- name: logged_xids
-- Which of some transactions the log has something of that can be seen.
SELECT DISTINCT log.xid::text FROM {cdc}.change_log AS log WHERE log.xid = ANY(%(xids)s::text[]::xid8[])

-- name: forgotten
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

-- name: log_position
-- Which segment of the change log is written to, whether none is (see close_log: 1, the log has no room; 2, the disk is full), how
-- many bytes one may take, and whether the gate is open: whether writers notify now.
SELECT {cdc}.current_segment(), coalesce(pg_sequence_last_value('{cdc}.closed'::regclass), 0),
    coalesce(pg_sequence_last_value('{cdc}.segment_bytes'::regclass), 0),
    coalesce(pg_sequence_last_value('{cdc}.gate'::regclass), 0) & 1 = 1
        AND pg_sequence_last_value('{cdc}.lease'::regclass) > date_part('epoch', clock_timestamp()) * 1000000

-- name: log_due
-- Whether the change log should be pruned now, and not only once a minute: a writer has found no room, the current segment is
-- full, the next one is not empty, or somebody has changed a segment by hand. And why nothing is written to it, see close_log.
SELECT pg_sequence_last_value('{cdc}.closed'::regclass) IS NOT NULL
    OR EXISTS (SELECT FROM {cdc}.changed_segments())
    OR EXISTS (
        SELECT
        FROM pg_class c
        WHERE c.relnamespace = '{cdc}'::regnamespace AND c.relkind = 'r'
            AND (c.relname = 'change_log_' || {cdc}.current_segment()
                    AND pg_total_relation_size(c.oid) > pg_sequence_last_value('{cdc}.segment_bytes'::regclass)
                OR c.relname = 'change_log_' || (({cdc}.current_segment() + 1) % 8) AND pg_relation_size(c.oid) > 0)
    ),
    coalesce(pg_sequence_last_value('{cdc}.closed'::regclass), 0)

-- name: segment_oids
-- Which tables segments of the change log are.
SELECT c.oid::bigint
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = ANY(%(names)s)

-- name: note_segments
-- Note what somebody has done to segments of the log by hand: their numbers.
SELECT {cdc}.note_segments()
