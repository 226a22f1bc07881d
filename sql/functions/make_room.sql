-- Looks at the size of a segment of the log that is written to. Returns false when there was nothing to do.
--
-- Usually a bridge, or `prune`, lets writers go on to the next one when a segment is full. Where neither has for as long as
-- it takes to write it twice, a writer does. For others that counts once it commits, so they may still be writing here when
-- there is much more than that. When the next one is not empty the writer forgets it. When that is not possible either
-- (pg_dump holds its lock on it, or the writer's snapshot does not show what it would forget) the segment goes on growing
-- to seven times its size, and the log, where it was full already, to less than four times of what it is meant to be. Then it is closed, at once and for everybody, whatever
-- becomes of this transaction, and changes are a gap. No disk fills because of us.
CREATE OR REPLACE FUNCTION {cdc}.make_room(number int) RETURNS boolean
LANGUAGE plpgsql
AS $make_room$
DECLARE
    segment_bytes CONSTANT bigint := pg_sequence_last_value('{cdc}.segment_bytes'::regclass);
    size_bytes CONSTANT bigint := pg_total_relation_size(format('{cdc}.change_log_%s', number)::regclass);
BEGIN
    -- First of all, since what is done below is undone when the application rolls back.
    IF size_bytes > 7 * segment_bytes THEN
        PERFORM setval('{cdc}.closed'::regclass, 1);
        RETURN true;
    END IF;
    IF size_bytes <= 2 * segment_bytes OR ({cdc}.current_segment() = number AND {cdc}.advance_segment(number)) THEN
        RETURN size_bytes > 2 * segment_bytes;
    END IF;
    IF {cdc}.current_segment() = number THEN
        BEGIN
            -- Not for nothing: somebody who has advanced already, and has not ended, would keep us from it.
            IF pg_try_advisory_xact_lock(hashtext('cdc_bridge'), hashtext('{cdc}.segment')) THEN
                EXECUTE format('LOCK TABLE {cdc}.change_log_%s IN ACCESS EXCLUSIVE MODE NOWAIT', (number + 1) % 8);
                PERFORM {cdc}.forget_segment((number + 1) % 8);
                IF {cdc}.advance_segment(number) THEN
                    RETURN true;
                END IF;
            END IF;
        EXCEPTION WHEN OTHERS THEN
            NULL;  -- locked, or not to be done in this transaction: see below
        END;
    END IF;
    RETURN true;
END
$make_room$;

REVOKE ALL ON FUNCTION {cdc}.make_room(int) FROM PUBLIC;
