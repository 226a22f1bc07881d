-- Counts what this transaction is about to notify and raises before it could fill PostgreSQL's queue. Returns the
-- count in bytes.
--
-- A full queue fails the COMMIT of whoever notifies next, and notifications wait in the writer's memory until then.
-- So the upper half of the queue is never ours, and of what is free in the lower half a transaction may take a
-- sixteenth (256 MiB of an empty queue of the usual size): sixteen such transactions at once still fit. The count is
-- a transaction-local setting, which the writer could falsify: less would harm its own COMMIT, more its own changes. What is no
-- number at all counts as nothing.
CREATE OR REPLACE FUNCTION {cdc}.reserve(size_bytes int) RETURNS bigint
LANGUAGE plpgsql
AS $reserve$
DECLARE
    queue_bytes CONSTANT float8 := coalesce(current_setting('max_notify_queue_pages', true)::float8, 1048576) * 8192;
    allowed CONSTANT float8 := (0.5 - pg_notification_queue_usage()) * queue_bytes / 16;
    said CONSTANT text := current_setting('cdc_bridge.pending_bytes', true);
    pending CONSTANT bigint := (CASE WHEN said <> '' AND length(said) < 18 AND rtrim(said, '0123456789') = '' THEN said::bigint ELSE 0 END)
        + size_bytes + 128;
BEGIN
    IF pending > allowed THEN
        RAISE EXCEPTION 'cdc_bridge: no room for % bytes of notifications', pending;
    END IF;
    RETURN set_config('cdc_bridge.pending_bytes', pending::text, true);
END
$reserve$;

REVOKE ALL ON FUNCTION {cdc}.reserve(int) FROM PUBLIC;
