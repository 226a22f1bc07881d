-- What a bridge asks first: the generation, which a crash, a failover and a restore replace by another one, and the key of
-- cursors. Where the schema has come by a dump, the log that came along is of another database, whose transaction ids
-- mean nothing here: it is forgotten. Writers wait behind that as long as it waits for one of them, so that is not long.
CREATE OR REPLACE FUNCTION {cdc}.begin_era(OUT token text, OUT seal_key text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '200ms'
AS $begin_era$
DECLARE
    here CONSTANT text := {cdc}.home();
BEGIN
    IF NOT EXISTS (SELECT FROM {cdc}.setting WHERE name = 'home' AND value = here) THEN
        PERFORM pg_advisory_xact_lock(hashtext('cdc_bridge'), hashtext('{cdc}.home'));
        IF EXISTS (SELECT FROM {cdc}.setting WHERE name = 'home' AND value <> here) THEN
            FOR number IN 0..7 LOOP
                EXECUTE format('TRUNCATE {cdc}.change_log_%s', number);
                PERFORM {cdc}.note_storage(number);
            END LOOP;
            PERFORM {cdc}.reopen_log();
            DELETE FROM {cdc}.forgotten;
            DELETE FROM {cdc}.generation;
        END IF;
        INSERT INTO {cdc}.setting VALUES ('home', here) ON CONFLICT (name) DO UPDATE SET value = here;
    END IF;
    INSERT INTO {cdc}.generation (home) VALUES (here) ON CONFLICT (is_only) DO NOTHING;
    SELECT g.token::text INTO token FROM {cdc}.generation g;
    SELECT array_to_string(s.key, '') INTO seal_key FROM {cdc}.secret s;
END
$begin_era$;

REVOKE ALL ON FUNCTION {cdc}.begin_era() FROM PUBLIC;
