-- The trigger function of tables that are attached in the mode `durable` and have to be captured row by row, see
-- capture_row(): AFTER each row. Each row is a change of its own. Otherwise it is as capture_durable().
CREATE OR REPLACE FUNCTION {cdc}.capture_durable_row() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
SET IntervalStyle = 'iso_8601'
SET bytea_output = 'hex'
SET extra_float_digits = 1
SET quote_all_identifiers = off
SET lc_monetary FROM CURRENT
SET debug_print_plan = off
AS $capture_durable_row$
DECLARE
    rendering text;
    old_text text;
    new_text text;
    done boolean;
BEGIN
    IF current_setting('cdc_bridge.hold', true) = 'batch' THEN
        -- The application has set it: ours is not set here, and with it record() would catch nothing.
        done := set_config('cdc_bridge.hold', '', true) IS NULL;
    END IF;
    BEGIN
        IF TG_NARGS > 0 THEN
            rendering := format('SELECT row_to_json(v.*)::text FROM (SELECT %s FROM (SELECT ($1).*) r) v',
                {cdc}.visible_columns(TG_RELID, TG_ARGV));
            IF TG_OP <> 'INSERT' THEN
                EXECUTE rendering INTO STRICT old_text USING OLD;
            END IF;
            IF TG_OP <> 'DELETE' THEN
                EXECUTE rendering INTO STRICT new_text USING NEW;
            END IF;
        ELSE
            IF TG_OP <> 'INSERT' THEN
                old_text := row_to_json(OLD)::text;
            END IF;
            IF TG_OP <> 'DELETE' THEN
                new_text := row_to_json(NEW)::text;
            END IF;
        END IF;
    EXCEPTION WHEN serialization_failure THEN
        RAISE;
    WHEN OTHERS THEN
        done := {cdc}.mark_gap();
        RETURN NULL;
    END;
    IF to_regproc('{cdc}.record') IS NULL THEN
        -- Somebody has dropped it, and nothing catches here.
        done := {cdc}.mark_gap();
        RETURN NULL;
    END IF;
    done := {cdc}.record(left(TG_OP, 1), TG_RELID, old_text, new_text);
    RETURN NULL;
END
$capture_durable_row$;

REVOKE ALL ON FUNCTION {cdc}.capture_durable_row() FROM PUBLIC;
