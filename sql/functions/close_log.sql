-- Lets nothing more be written to the log, at once and for every transaction: 1, since it has no room, or 2, since the disk
-- is full. Changes are gaps from then on.
--
-- Writers look whether the log is closed when they find the gate odd, so it is made odd; shut_gate() leaves it so. What
-- somebody else does at the same moment, or a crash, can make it even again, which the first writer that looks by chance mends.
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
