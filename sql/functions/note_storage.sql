-- Remembers the storage that a segment of the log has now, for changed_segments().
CREATE OR REPLACE FUNCTION {cdc}.note_storage(which int) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $note_storage$
    UPDATE {cdc}.segment SET storage = coalesce((SELECT c.relfilenode FROM pg_class c
        WHERE c.relnamespace = '{cdc}'::regnamespace AND c.relkind = 'r' AND c.relname = 'change_log_' || which), 0)
    WHERE number = which
$note_storage$;

REVOKE ALL ON FUNCTION {cdc}.note_storage(int) FROM PUBLIC;
