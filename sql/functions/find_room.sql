-- Opens the log again after the disk was full, if there is room now. Returns whether there is.
--
-- There is if a segment can grow by some 200 kB, index included. The rows for that are rolled back, but the files stay
-- as large.
CREATE OR REPLACE FUNCTION {cdc}.find_room() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $find_room$
BEGIN
    EXECUTE format('INSERT INTO {cdc}.change_log_%s
        SELECT ''0/0'', ''3'', ''epoch'', 0, 0, ''X'', NULL,
            (SELECT string_agg(gen_random_uuid()::text, '''') FROM generate_series(1, 50) WHERE n > 0)
        FROM generate_series(1, 100) AS n', {cdc}.current_segment());
    RAISE object_not_in_prerequisite_state;
EXCEPTION
    WHEN object_not_in_prerequisite_state THEN
        PERFORM {cdc}.reopen_log();
        RETURN true;
    WHEN disk_full THEN
        RETURN false;
END
$find_room$;

REVOKE ALL ON FUNCTION {cdc}.find_room() FROM PUBLIC;
