-- The segments of the log whose storage is not the one that we have left: somebody has emptied, replaced, renamed or rewritten
-- them by hand, and what was in them may be missing. All by one snapshot, so that our own emptying never looks like it.
CREATE OR REPLACE FUNCTION {cdc}.changed_segments() RETURNS SETOF int
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $changed_segments$
    SELECT s.number
    FROM {cdc}.segment s
    LEFT JOIN pg_class c ON c.relnamespace = '{cdc}'::regnamespace AND c.relkind = 'r' AND c.relname = 'change_log_' || s.number
    WHERE s.storage <> coalesce(c.relfilenode, 0)
$changed_segments$;

REVOKE ALL ON FUNCTION {cdc}.changed_segments() FROM PUBLIC;
