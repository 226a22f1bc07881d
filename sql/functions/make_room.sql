-- Looks at the size of a segment of the log that is written to. Returns false if there was nothing to do.
--
-- Usually a bridge, or `prune`, lets writers go on to the next segment when this one is full. If neither has done so
-- when it is twice as large, a writer does. Others notice that when it commits, so they may still write here when there
-- is much more. If the next segment is not empty, the writer empties it, but only when its transaction ends, since the
-- lock for that keeps readers from the log.
--
-- That may not be possible either: pg_dump holds its lock on the segment, or the writer's snapshot does not show what
-- it would forget. Then the segment grows on to seven times its size, and the log, if it was full already, to less than
-- four times its bound. Past that the log is closed, at once and for everybody, whatever becomes of this transaction,
-- and changes are a gap. No disk fills because of us.
CREATE OR REPLACE FUNCTION {cdc}.make_room(number int) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $make_room$
DECLARE
    segment_bytes CONSTANT bigint := pg_sequence_last_value('{cdc}.segment_bytes'::regclass);
    size_bytes CONSTANT bigint := pg_total_relation_size(format('{cdc}.change_log_%s', number)::regclass);
    place tid;
BEGIN
    -- First, since all that follows is undone if the application rolls back.
    IF size_bytes > 7 * segment_bytes THEN
        PERFORM {cdc}.close_log(1);
        RETURN true;
    END IF;
    -- A session that ends at any error does nothing that may raise one.
    IF size_bytes <= 2 * segment_bytes OR current_setting('exit_on_error') = 'on'
            OR ({cdc}.current_segment() = number AND {cdc}.advance_segment(number)) THEN
        RETURN size_bytes > 2 * segment_bytes;
    END IF;
    -- Other isolation levels cannot empty the log, see forget_segment(). If `notify` is off, transactions may be
    -- prepared: one would hold the lock until it is committed.
    IF {cdc}.current_segment() = number AND current_setting('transaction_isolation') = 'read committed'
            AND NOT EXISTS (SELECT FROM {cdc}.setting WHERE name = 'notify' AND value = 'off') THEN
        INSERT INTO {cdc}.errand (is_last) VALUES (false) RETURNING ctid INTO place;
        DELETE FROM {cdc}.errand WHERE ctid = place;  -- what it has started goes on
    END IF;
    RETURN true;
END
$make_room$;

REVOKE ALL ON FUNCTION {cdc}.make_room(int) FROM PUBLIC;
