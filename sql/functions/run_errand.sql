-- The trigger of the table `errand`, deferred: what a writer does for the log at the end of its transaction. It writes
-- the changes that keep() has kept, or empties the next segment and lets writers go on to it, see make_room(). Never
-- fails.
--
-- The first call only asks for another one, which comes when all that the application has deferred is done. So readers
-- wait for the commit only.
CREATE OR REPLACE FUNCTION {cdc}.run_errand() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET debug_print_plan = off  -- it would show rows to the writer
AS $run_errand$
DECLARE
    name text;
    number int;
    place tid;
    done text;
BEGIN
    IF NOT NEW.is_last THEN
        INSERT INTO {cdc}.errand (is_last, is_kept) VALUES (true, NEW.is_kept) RETURNING ctid INTO place;
        DELETE FROM {cdc}.errand WHERE ctid = place;
        RETURN NULL;
    END IF;
    IF NEW.is_kept THEN
        name := 'cdc_bridge.kept_' || pg_sequence_last_value('{cdc}.channel'::regclass);
        IF coalesce(current_setting(name, true), '') = '' THEN
            PERFORM {cdc}.mark_gap();  -- the application has reset all settings
        ELSE
            PERFORM {cdc}.write_kept();
            done := set_config(name, '', true);
        END IF;
        RETURN NULL;
    END IF;
    -- A transaction that has advanced already, and has not ended, would make this in vain.
    IF NOT pg_try_advisory_xact_lock(hashtext('cdc_bridge'), hashtext('{cdc}.segment')) THEN
        RETURN NULL;
    END IF;
    number := {cdc}.current_segment();
    IF pg_total_relation_size(format('{cdc}.change_log_%s', number)::regclass)
            > 2 * pg_sequence_last_value('{cdc}.segment_bytes'::regclass) THEN
        EXECUTE format('LOCK TABLE {cdc}.change_log_%s IN ACCESS EXCLUSIVE MODE NOWAIT', (number + 1) % 8);
        PERFORM {cdc}.forget_segment((number + 1) % 8);
        PERFORM {cdc}.advance_segment(number);
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    IF NEW.is_kept AND SQLSTATE = '40001' THEN
        RAISE;  -- the transaction cannot be serialised with others
    ELSIF NEW.is_kept THEN
        PERFORM {cdc}.mark_gap();
    END IF;
    RETURN NULL;  -- the next segment is locked: see make_room()
END
$run_errand$;

REVOKE ALL ON FUNCTION {cdc}.run_errand() FROM PUBLIC;

DO $make$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = '{cdc}.errand'::regclass AND tgname = 'run_errand') THEN
        CREATE CONSTRAINT TRIGGER run_errand AFTER INSERT ON {cdc}.errand DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION {cdc}.run_errand();
        ALTER TABLE {cdc}.errand ENABLE ALWAYS TRIGGER run_errand;
    END IF;
END
$make$;
