-- Looks at the size of a segment of the log that is written to. Returns false when there was nothing to do.
--
-- Usually a bridge, or `prune`, lets writers go on to the next one when a segment is full. Where neither has for as long as
-- it takes to write it twice, a writer does. For others that counts once it commits, so they may still be writing here when
-- there is much more than that. When the next one is not empty the writer forgets it, but not before its transaction ends: the
-- lock for that keeps readers from the log. When that is not possible either (pg_dump holds its lock on it, or the writer's
-- snapshot does not show what it would forget), or takes too long to come, the segment goes on growing to seven times its size,
-- and the log, where it was full already, to less than four times of what it is meant to be. Then it is closed, at once and
-- for everybody, whatever becomes of this transaction, and changes are a gap. No disk fills because of us.
CREATE OR REPLACE FUNCTION {cdc}.make_room(number int) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $make_room$
DECLARE
    segment_bytes CONSTANT bigint := pg_sequence_last_value('{cdc}.segment_bytes'::regclass);
    size_bytes CONSTANT bigint := pg_total_relation_size(format('{cdc}.change_log_%s', number)::regclass);
    place tid;
BEGIN
    -- First of all, since what is done below is undone when the application rolls back.
    IF size_bytes > 7 * segment_bytes THEN
        PERFORM {cdc}.close_log(1);
        RETURN true;
    END IF;
    -- And nothing that may raise, where the session would end at any error.
    IF size_bytes <= 2 * segment_bytes OR current_setting('exit_on_error') = 'on' OR ({cdc}.current_segment() = number AND {cdc}.advance_segment(number)) THEN
        RETURN size_bytes > 2 * segment_bytes;
    END IF;
    -- In other isolation levels the log is not emptied, see forget_segment(). Nor where `notify` is off: a transaction that is
    -- prepared afterwards would hold the lock until somebody commits it.
    IF {cdc}.current_segment() = number AND current_setting('transaction_isolation') = 'read committed'
            AND NOT EXISTS (SELECT FROM {cdc}.setting WHERE name = 'notify' AND value = 'off') THEN
        INSERT INTO {cdc}.errand (is_last) VALUES (false) RETURNING ctid INTO place;
        DELETE FROM {cdc}.errand WHERE ctid = place;  -- what it has started goes on
    END IF;
    RETURN true;
END
$make_room$;

REVOKE ALL ON FUNCTION {cdc}.make_room(int) FROM PUBLIC;
