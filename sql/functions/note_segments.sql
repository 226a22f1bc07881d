-- Notes as forgotten what may be missing from the log since somebody has emptied, replaced, renamed or rewritten a segment by
-- hand. Returns their numbers. It waits for nobody: who has such a row locked is emptying that segment, and notes it.
CREATE OR REPLACE FUNCTION {cdc}.note_segments() RETURNS SETOF int
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $note_segments$
DECLARE
    changed int;
BEGIN
    FOR changed IN SELECT s.number FROM {cdc}.segment s FOR UPDATE SKIP LOCKED LOOP
        -- Looked at again, now that nobody else can change it.
        CONTINUE WHEN changed NOT IN (SELECT {cdc}.changed_segments());
        INSERT INTO {cdc}.forgotten (segment) VALUES (changed);
        PERFORM {cdc}.note_storage(changed);
        RETURN NEXT changed;
    END LOOP;
END
$note_segments$;

REVOKE ALL ON FUNCTION {cdc}.note_segments() FROM PUBLIC;
