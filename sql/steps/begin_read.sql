-- Begin the transaction of a read: its snapshot, and the instant at which it began, in microseconds since 1970. On a standby
-- also a snapshot from before it, in which it is known who is in progress; else NULL. One script, so one round trip.
BEGIN READ ONLY;
SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN ({settled}) END;
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL statement_timeout = {limit_ms};
SELECT pg_catalog.pg_current_snapshot()::text, (extract(epoch FROM pg_catalog.now()) * 1000000)::bigint::text
