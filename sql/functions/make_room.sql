-- Looks at the size of the log's current segment and lets writers go on to the next one when it is full. Returns false when
-- there was nothing to do.
--
-- Usually a bridge, or `prune`, has emptied the next one in time. Where neither has for as long as it takes to write
-- twice a segment, the writer itself forgets what is oldest. When that is not possible (pg_dump holds its lock on it, or
-- the writer's snapshot does not show what it would forget) the log goes on growing to about twice what it is meant to be.
-- Then it is full, and from there on changes are a gap. No disk fills because of us.
CREATE OR REPLACE FUNCTION {cdc}.make_room(number int) RETURNS boolean
LANGUAGE plpgsql
AS $make_room$
DECLARE
    segment_bytes CONSTANT bigint := pg_sequence_last_value('{cdc}.segment_bytes'::regclass);
    size_bytes CONSTANT bigint := pg_total_relation_size(format('{cdc}.change_log_%s', number)::regclass);
BEGIN
    IF size_bytes <= segment_bytes OR {cdc}.current_segment() <> number OR {cdc}.advance_segment(number) THEN
        RETURN size_bytes > segment_bytes;
    END IF;
    IF size_bytes > 2 * segment_bytes THEN
        BEGIN
            EXECUTE format('LOCK TABLE {cdc}.change_log_%s IN ACCESS EXCLUSIVE MODE NOWAIT', (number + 1) % 8);
            PERFORM {cdc}.forget_segment((number + 1) % 8);
            RETURN true;
        EXCEPTION WHEN OTHERS THEN
            NULL;  -- locked, or not to be done in this transaction: see below
        END;
    END IF;
    IF size_bytes > 7 * segment_bytes AND pg_try_advisory_xact_lock(hashtext('cdc_bridge'), hashtext('{cdc}.segment')) THEN
        PERFORM {cdc}.write_to_segment(NULL);
    END IF;
    RETURN true;
END
$make_room$;

REVOKE ALL ON FUNCTION {cdc}.make_room(int) FROM PUBLIC;
