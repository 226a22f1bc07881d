-- Lets writers go on from this segment of the log to the next one, and opens the log if it was closed. Returns false if
-- the next segment is not empty, or if another transaction is doing this or has done it.
--
-- The lock is held to the end of the transaction, because others would have to wait that long to replace the same
-- functions; it is given back if it was of no use. It is taken first: a transaction that empties the next segment holds
-- it, and looking at that segment would wait for that transaction.
CREATE OR REPLACE FUNCTION {cdc}.advance_segment(number int) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $advance_segment$
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('cdc_bridge'), hashtext('{cdc}.segment')) THEN
        RETURN false;
    END IF;
    IF number IS DISTINCT FROM {cdc}.current_segment() THEN
        RAISE object_not_in_prerequisite_state;
    END IF;
    IF pg_relation_size(format('{cdc}.change_log_%s', (number + 1) % 8)::regclass) > 0 THEN
        RAISE object_not_in_prerequisite_state;
    END IF;
    PERFORM {cdc}.write_to_segment((number + 1) % 8);
    PERFORM {cdc}.reopen_log();
    RETURN true;
EXCEPTION WHEN object_not_in_prerequisite_state THEN
    RETURN false;  -- without the lock
END
$advance_segment$;

REVOKE ALL ON FUNCTION {cdc}.advance_segment(int) FROM PUBLIC;
