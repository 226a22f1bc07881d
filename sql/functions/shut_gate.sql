-- Shuts the gate: makes the sequence `gate` even, so that writers notify no longer. Returns true if it was open.
--
-- Each step of the gate is a new value, so a bridge that finds the value that it knows has missed nothing.
CREATE OR REPLACE FUNCTION {cdc}.shut_gate() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $shut_gate$
DECLARE
    was_open boolean := false;
BEGIN
    WHILE pg_sequence_last_value('{cdc}.gate'::regclass) & 1 = 1 AND pg_sequence_last_value('{cdc}.closed'::regclass) IS NULL LOOP
        was_open := true;
        PERFORM nextval('{cdc}.gate'::regclass);
    END LOOP;
    RETURN was_open;
EXCEPTION WHEN OTHERS THEN
    -- Somebody dropped it, or revoked a right on it; writers come by here, and must not fail.
    RETURN false;
END
$shut_gate$;

REVOKE ALL ON FUNCTION {cdc}.shut_gate() FROM PUBLIC;
