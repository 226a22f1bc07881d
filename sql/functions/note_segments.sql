-- Notes as forgotten what may be missing from the log since somebody has emptied, replaced, renamed or rewritten a segment by
-- hand. Returns their numbers. It waits for nobody: who has such a row locked is emptying that segment, and notes it. Notes none
-- where the schema has come by a dump, as long as begin_era() has not emptied the log that came along.
CREATE OR REPLACE FUNCTION {cdc}.note_segments() RETURNS SETOF int
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $note_segments$
DECLARE
    changed int;
BEGIN
    IF NOT EXISTS (SELECT FROM {cdc}.setting WHERE name = 'home' AND value = {cdc}.home()) THEN
        RETURN;
    END IF;
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
