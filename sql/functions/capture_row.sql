-- The trigger function of a table that has an AFTER ROW trigger of the application's: AFTER each row.
--
-- Such a trigger may write to the same table, and what it writes would be told before the statement that it belongs
-- to if that were captured at its end. Ours comes first in the order of names, so each row is told before the
-- application's trigger sees it. Each row is a payload of its own. Otherwise as capture().
CREATE OR REPLACE FUNCTION {cdc}.capture_row() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET client_min_messages = error
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
SET IntervalStyle = 'iso_8601'
SET bytea_output = 'hex'
SET extra_float_digits = 1
SET quote_all_identifiers = off
SET lc_monetary FROM CURRENT
AS $capture_row$
DECLARE
    rendering text;
    old_item text;
    new_item text;
    sent int;
BEGIN
    IF TG_NARGS > 0 THEN
        rendering := format('SELECT row_to_json(v.*)::text FROM (SELECT %s FROM (SELECT ($1).*) r) v',
            {cdc}.visible_columns(TG_RELID, TG_ARGV));
        IF TG_OP <> 'INSERT' THEN
            EXECUTE rendering INTO STRICT old_item USING OLD;
        END IF;
        IF TG_OP <> 'DELETE' THEN
            EXECUTE rendering INTO STRICT new_item USING NEW;
        END IF;
    ELSE
        IF TG_OP <> 'INSERT' THEN
            old_item := row_to_json(OLD)::text;
        END IF;
        IF TG_OP <> 'DELETE' THEN
            new_item := row_to_json(NEW)::text;
        END IF;
    END IF;
    sent := {cdc}.send(left(TG_OP, 1), TG_RELID, '[' || concat_ws(',', old_item, new_item) || ']');
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    BEGIN
        PERFORM nextval('{cdc}.gap'::regclass);
    EXCEPTION WHEN OTHERS THEN
        -- Somebody dropped it. The bridges, which cannot read it either, notice by themselves.
        NULL;
    END;
    RETURN NULL;
END
$capture_row$;

REVOKE ALL ON FUNCTION {cdc}.capture_row() FROM PUBLIC;
