-- Closes the log: nothing more is written to it, at once and for every transaction, and changes are gaps from then on.
-- The reason is 1 if the log has no room, 2 if the disk is full.
--
-- Writers look whether the log is closed only if they find the gate odd, so it is made odd, and shut_gate() leaves it
-- so. A crash, or a session that steps the gate at the same moment, can make it even again; the next writer that looks
-- by chance mends that.
CREATE OR REPLACE FUNCTION {cdc}.close_log(reason int) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $close_log$
BEGIN
    PERFORM setval('{cdc}.closed'::regclass, reason);
    WHILE pg_sequence_last_value('{cdc}.gate'::regclass) & 1 = 0 LOOP
        PERFORM nextval('{cdc}.gate'::regclass);
    END LOOP;
    RETURN true;
END
$close_log$;

REVOKE ALL ON FUNCTION {cdc}.close_log(int) FROM PUBLIC;
