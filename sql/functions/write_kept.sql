-- Writes to the log what keep() has kept. Whatever goes wrong is a gap, and nothing is kept any more.
CREATE OR REPLACE FUNCTION {cdc}.write_kept() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $write_kept$
DECLARE
    name CONSTANT text := 'cdc_bridge.kept_' || pg_sequence_last_value('{cdc}.channel'::regclass);
    kept CONSTANT bigint[] := string_to_array(nullif(current_setting(name, true), ''), ' ');
    changes text[];
    written bigint;
BEGIN
    IF kept IS NULL THEN
        RETURN;
    END IF;
    PERFORM set_config(name, concat_ws(' ', 0, kept[2] + 1, kept[3]), true);
    FOR part IN 0..kept[1] / 16384 LOOP
        changes := changes || current_setting(name || '_' || part, true);
        PERFORM set_config(name || '_' || part, '', true);
    END LOOP;
    IF kept[1] = 0 THEN
        RETURN;
    END IF;
    IF pg_sequence_last_value('{cdc}.closed'::regclass) IS NOT NULL THEN
        PERFORM {cdc}.mark_gap();
        RETURN;
    END IF;
    EXECUTE format('INSERT INTO {cdc}.change_log_%s
        SELECT (c->>3)::pg_lsn, pg_current_xact_id(), to_timestamp(0) + (c->>4)::bigint * interval ''1 microsecond'',
            (c->>0)::oid, (c->>1)::oid, (c->>2)::"char", nullif((c->5)::text, ''null''), nullif((c->6)::text, ''null'')
        FROM json_array_elements($1) AS c', {cdc}.current_segment())
    USING (overlay(array_to_string(changes, '') PLACING '[' FROM 1 FOR 1) || ']')::json;
    GET DIAGNOSTICS written = ROW_COUNT;
    IF written = 0 THEN
        RAISE EXCEPTION 'cdc_bridge: nothing was written';  -- a trigger that somebody has made on the segment lets nothing in
    END IF;
    PERFORM {cdc}.make_room({cdc}.current_segment());
EXCEPTION WHEN serialization_failure THEN
    RAISE;
WHEN OTHERS THEN
    PERFORM {cdc}.mark_gap();
    -- What was set above is undone.
    PERFORM set_config(name, concat_ws(' ', 0, kept[2] + 1, kept[3]), true);
    IF SQLSTATE = '53100' THEN
        PERFORM {cdc}.close_log(2);
    END IF;
END
$write_kept$;

REVOKE ALL ON FUNCTION {cdc}.write_kept() FROM PUBLIC;
