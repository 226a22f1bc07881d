-- Keeps a change in memory until the transaction ends, or until there are enough of them for write_kept(). Returns its
-- `seq`.
--
-- A transaction that has written to the log some fifty times does so: each further write would take a subtransaction
-- id, see write_to_segment(). A deferred trigger, run_errand(), writes what is left when the transaction ends.
--
-- The memory is transaction-local settings, so what the application rolls back is gone there too. Each holds 16 kB of a
-- JSON array, so that adding a change copies little. Their names contain the number that names the channel: whoever
-- does not know it cannot set them, and PostgreSQL shows them to nobody. They are set by assignment, because a query's
-- plan, which debug_print_plan shows to the writer, would have their values as constants.
--
-- No two changes have the same `seq`. Nothing is written to the WAL between those of one statement, so there it is one
-- more than that of the change before. It stays below that of any transaction that sees this one, since each change
-- takes more than a byte of WAL before the commit.
--
-- Bound: 64 kB, and twice as much after each time they were written, up to 4 MB. So a transaction takes 64 ids when it
-- has made some 30 MB of changes.
CREATE OR REPLACE FUNCTION {cdc}.keep(operation text, relation oid, seq pg_lsn, old_text text, new_text text) RETURNS pg_lsn
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $keep$
DECLARE
    name CONSTANT text := 'cdc_bridge.kept_' || pg_sequence_last_value('{cdc}.channel'::regclass);
    is_begun CONSTANT boolean := coalesce(current_setting(name, true), '') <> '';
    -- The bytes that are kept, how often some were written, and the last `seq`.
    kept bigint[] := string_to_array(CASE WHEN is_begun THEN current_setting(name) ELSE '0 0 0' END, ' ');
    own_seq CONSTANT pg_lsn := greatest(seq, '0/0'::pg_lsn + (kept[3] + 1));
    item CONSTANT text := format(',[%s,%s,"%s","%s",%s,%s,%s]',
        relation, coalesce(pg_relation_filenode(relation), 0), operation, own_seq,
        (date_part('epoch', clock_timestamp()) * 1000000)::bigint, coalesce(old_text, 'null'), coalesce(new_text, 'null'));
    part text;
    done text;
    place tid;
BEGIN
    IF NOT is_begun AND NOT EXISTS (
        SELECT FROM pg_trigger
        WHERE tgrelid = '{cdc}.errand'::regclass AND tgfoid = '{cdc}.run_errand()'::regprocedure AND tgenabled = 'A'
    ) THEN
        RAISE EXCEPTION 'cdc_bridge: nothing would write what is kept';
    END IF;
    part := name || '_' || kept[1] / 16384;
    done := set_config(part, concat(current_setting(part, true), item), true);
    kept[1] := kept[1] + octet_length(item);
    kept[3] := own_seq - '0/0'::pg_lsn;
    done := set_config(name, array_to_string(kept, ' '), true);
    IF NOT is_begun THEN
        SET CONSTRAINTS {cdc}.run_errand DEFERRED;  -- the application may have made all of them immediate
        INSERT INTO {cdc}.errand (is_last, is_kept) VALUES (false, true) RETURNING ctid INTO place;
        DELETE FROM {cdc}.errand WHERE ctid = place;  -- what it has started goes on
    ELSIF kept[1] > least(65536 << least(kept[2]::int, 6), 4194304) THEN
        PERFORM {cdc}.write_kept();
    END IF;
    RETURN own_seq;
END
$keep$;

REVOKE ALL ON FUNCTION {cdc}.keep(text, oid, pg_lsn, text, text) FROM PUBLIC;
