-- What attach, detach and pruning do, each inside of a transaction or a plan.

-- name: advance_segment
-- Let writers go on from this segment of the change log to the next one, also where it was closed; false when that is not empty.
SELECT {cdc}.advance_segment({number})

-- name: become
-- What is made from here on belongs to the owner of our schema, as the rest of it does; until the end of the transaction.
SET LOCAL ROLE {owner}

-- name: drop_schema
-- CASCADE reaches no table of the application: the triggers that need our functions are gone by then.
DROP SCHEMA IF EXISTS {cdc} CASCADE

-- name: drop_index
-- Free the space that a full disk needs before a segment of the change log can be emptied.
SELECT {cdc}.drop_index({number})

-- name: find_room
-- Let writers write to the change log again after the disk was full; false where it still is.
SELECT {cdc}.find_room()

-- name: forget_segment
-- Empty one segment of the change log, in a transaction of its own.
SELECT {cdc}.forget_segment({number})

-- name: limit
-- Wait for no lock for longer than this.
SET LOCAL lock_timeout = {limit}

-- name: lock
-- All tables that a task changes, in one go.
LOCK TABLE {tables} IN {mode} MODE

-- name: merge_forgotten
-- Of what was forgotten make one row of all that need not be told apart any more.
SELECT {cdc}.merge_forgotten()

-- name: prune_alone
-- One prunes at a time, until it says so or its session ends.
SELECT pg_try_advisory_lock(hashtext('cdc_bridge prune'), hashtext({name}))

-- name: pruned
-- The next one may prune.
SELECT pg_advisory_unlock(hashtext('cdc_bridge prune'), hashtext({name}))

-- name: record_notify
-- Decide for all bridges whether anything notifies.
SELECT {cdc}.record_notify({value})

-- name: search
-- Names mean PostgreSQL's own, until the end of the transaction.
SET LOCAL search_path = pg_catalog, pg_temp

-- name: segment_bytes
-- How many bytes a segment of the change log may take before writers go on to the next one.
SELECT setval('{cdc}.segment_bytes'::regclass, {size_bytes})

-- name: serialise
-- Wait until nobody else installs or removes our schema; until the end of the transaction.
SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('cdc_bridge'), pg_catalog.hashtext({name}))

-- name: begin_read
-- Begin the transaction of a read: its snapshot, and the instant at which it began, in microseconds since 1970. On a standby
-- also a snapshot from before it, in which it is known who is in progress; else NULL. One script, so one round trip.
BEGIN READ ONLY;
SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN ({settled}) END;
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL statement_timeout = {limit_ms};
SELECT pg_catalog.pg_current_snapshot()::text, (extract(epoch FROM pg_catalog.now()) * 1000000)::bigint::text

-- name: prepare_asked
-- The body of a DO: prepare a statement as the role of the session, or else as the role that asks, who may use schemas that
-- the session may not.
BEGIN
    EXECUTE {text};
EXCEPTION WHEN insufficient_privilege THEN
    PERFORM pg_catalog.set_config('role', {role}, true);
    EXECUTE {text};
END
