-- Counts what this transaction is about to notify and raises before it could fill PostgreSQL's queue.
--
-- A full queue fails the COMMIT of whoever notifies next, and notifications wait in the writer's memory until then.
-- So a transaction may use 256 MiB, and nobody more than half of the queue. The count is a transaction-local setting
-- that the writer could falsify; it would only harm its own COMMIT.
CREATE OR REPLACE FUNCTION {cdc}.reserve(size_bytes int) RETURNS void
LANGUAGE plpgsql
AS $reserve$
DECLARE
    queue_bytes CONSTANT float8 := coalesce(current_setting('max_notify_queue_pages', true)::float8, 1048576) * 8192;
    allowed CONSTANT float8 := least(268435456, (0.5 - pg_notification_queue_usage()) * queue_bytes);
    pending CONSTANT bigint := greatest(0, coalesce(nullif(current_setting('cdc_bridge.pending_bytes', true), ''), '0')::bigint)
        + size_bytes + 128;
BEGIN
    IF pending > allowed THEN
        RAISE EXCEPTION 'cdc_bridge: no room for % bytes of notifications', pending;
    END IF;
    PERFORM set_config('cdc_bridge.pending_bytes', pending::text, true);
END
$reserve$;
