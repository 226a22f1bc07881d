-- Writes to the log what keep() has kept. If that fails it is a gap, and the changes are dropped. Only
-- json_array_elements reads JSON here: other functions convert strings to text, which cannot contain some of them
-- ('\u0000').
CREATE OR REPLACE FUNCTION {cdc}.write_kept() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $write_kept$
DECLARE
    name CONSTANT text := 'cdc_bridge.kept_' || pg_sequence_last_value('{cdc}.channel'::regclass);
    kept CONSTANT bigint[] := string_to_array(nullif(current_setting(name, true), ''), ' ');
    changes text[];
    done text;
    written bigint;
BEGIN
    IF kept IS NULL THEN
        RETURN;
    END IF;
    done := set_config(name, concat_ws(' ', 0, kept[2] + 1, kept[3]), true);
    FOR part IN 0..kept[1] / 16384 LOOP
        -- Where changes are large, few of these settings exist. Setting one would create it.
        CONTINUE WHEN coalesce(current_setting(name || '_' || part, true), '') = '';
        changes := changes || current_setting(name || '_' || part);
        done := set_config(name || '_' || part, '', true);
    END LOOP;
    IF kept[1] = 0 THEN
        RETURN;
    END IF;
    IF pg_sequence_last_value('{cdc}.closed'::regclass) IS NOT NULL THEN
        PERFORM {cdc}.mark_gap();
        RETURN;
    END IF;
    EXECUTE format('INSERT INTO {cdc}.change_log_%s
        SELECT trim(c.parts[4], ''"'')::pg_lsn, pg_current_xact_id(),
            to_timestamp(0) + c.parts[5]::bigint * interval ''1 microsecond'',
            c.parts[1]::oid, c.parts[2]::oid, trim(c.parts[3], ''"'')::"char",
            nullif(c.parts[6], ''null''), nullif(c.parts[7], ''null'')
        FROM json_array_elements($1) AS change
        CROSS JOIN LATERAL (SELECT array_agg(part::text) AS parts FROM json_array_elements(change) AS part) AS c',
        {cdc}.current_segment())
    USING (overlay(array_to_string(changes, '') PLACING '[' FROM 1 FOR 1) || ']')::json;
    GET DIAGNOSTICS written = ROW_COUNT;
    IF written = 0 THEN
        RAISE EXCEPTION 'cdc_bridge: nothing was written';  -- by a trigger that somebody has made on the segment
    END IF;
    PERFORM {cdc}.make_room({cdc}.current_segment());
EXCEPTION WHEN serialization_failure THEN
    RAISE;
WHEN OTHERS THEN
    PERFORM {cdc}.mark_gap();
    -- The block has undone what was set above.
    done := set_config(name, concat_ws(' ', 0, kept[2] + 1, kept[3]), true);
    IF SQLSTATE = '53100' THEN
        PERFORM {cdc}.close_log(2);
    END IF;
END
$write_kept$;

REVOKE ALL ON FUNCTION {cdc}.write_kept() FROM PUBLIC;
