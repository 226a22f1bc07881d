-- Empties one segment of the log, 0 to 7, and notes what is missing from then on. Waits for the segment's lock as long
-- as the caller's lock_timeout allows: whoever has written to it must have ended.
--
-- For a transaction of its own in READ COMMITTED: what it notes has to be what the last writer left. The caller may not
-- empty the segment that is current while anybody could write to it; it would be noted rightly, but for nothing.
CREATE OR REPLACE FUNCTION {cdc}.forget_segment(number int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $forget_segment$
DECLARE
    segment CONSTANT text := format('{cdc}.change_log_%s', number);
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'cdc_bridge: the log is emptied in READ COMMITTED only';
    END IF;
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', segment);
    -- By the index: to count would read it all, under that lock. And PostgreSQL 14 knows no min(xid8).
    EXECUTE format('INSERT INTO {cdc}.forgotten (segment, oldest, youngest)
        SELECT %1$s, l.xid, (SELECT y.xid FROM %2$s y ORDER BY y.xid DESC LIMIT 1) FROM %2$s l ORDER BY l.xid LIMIT 1', number, segment);
    -- What somebody else has taken out of it before is in no row.
    INSERT INTO {cdc}.forgotten (segment) SELECT changed FROM {cdc}.changed_segments() AS changed WHERE changed = number;
    EXECUTE format('TRUNCATE %s', segment);
    IF NOT EXISTS (SELECT FROM pg_index WHERE indrelid = segment::regclass) THEN
        EXECUTE format('CREATE INDEX ON %s (xid)', segment);  -- see drop_index()
    END IF;
    PERFORM {cdc}.note_storage(number);
END
$forget_segment$;

REVOKE ALL ON FUNCTION {cdc}.forget_segment(int) FROM PUBLIC;
