-- Drops the index of a segment of the log. On a full disk nothing else frees space without needing some. Afterwards
-- there is enough to empty the segment, and forget_segment() makes the index again.
CREATE OR REPLACE FUNCTION {cdc}.drop_index(number int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $drop_index$
DECLARE
    index regclass;
BEGIN
    FOR index IN SELECT indexrelid FROM pg_index WHERE indrelid = format('{cdc}.change_log_%s', number)::regclass LOOP
        EXECUTE format('DROP INDEX %s', index);
    END LOOP;
END
$drop_index$;

REVOKE ALL ON FUNCTION {cdc}.drop_index(int) FROM PUBLIC;
