-- Opens the log again if it is closed. The gate comes first: while it is odd and the log is not closed, writers notify.
CREATE OR REPLACE FUNCTION {cdc}.reopen_log() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $reopen_log$
BEGIN
    IF pg_sequence_last_value('{cdc}.closed'::regclass) IS NOT NULL THEN
        WHILE pg_sequence_last_value('{cdc}.gate'::regclass) & 1 = 1 LOOP
            PERFORM nextval('{cdc}.gate'::regclass);
        END LOOP;
        PERFORM setval('{cdc}.closed'::regclass, 1, false);
    END IF;
END
$reopen_log$;

REVOKE ALL ON FUNCTION {cdc}.reopen_log() FROM PUBLIC;
