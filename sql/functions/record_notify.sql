-- Decides for all bridges whether anything notifies: 'auto' or 'off'. With `off` the gate is shut here and now, not when the next
-- bridge looks.
CREATE OR REPLACE FUNCTION {cdc}.record_notify(decided text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $record_notify$
BEGIN
    IF decided IS NULL OR decided NOT IN ('auto', 'off') THEN
        RAISE EXCEPTION 'cdc_bridge: notify is auto or off';
    END IF;
    INSERT INTO {cdc}.setting (name, value) VALUES ('notify', decided)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value;
    IF decided = 'off' THEN
        PERFORM {cdc}.shut_gate();
    END IF;
END
$record_notify$;

REVOKE ALL ON FUNCTION {cdc}.record_notify(text) FROM PUBLIC;
