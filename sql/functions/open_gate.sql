-- Lets writers notify, for so many seconds unless it is called again: makes the sequence `gate` odd and extends the lease.
-- Returns the value of the gate; the same value as before means that it has been open all the time. NULL where the
-- operator has decided that nobody notifies.
CREATE OR REPLACE FUNCTION {cdc}.open_gate(lease_s float8) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $open_gate$
BEGIN
    IF EXISTS (SELECT FROM {cdc}.setting WHERE name = 'notify' AND value = 'off') THEN
        PERFORM {cdc}.shut_gate();
        RETURN NULL;
    END IF;
    PERFORM setval('{cdc}.lease'::regclass, ((date_part('epoch', clock_timestamp()) + lease_s) * 1000000)::bigint);
    WHILE pg_sequence_last_value('{cdc}.gate'::regclass) & 1 = 0 LOOP
        PERFORM nextval('{cdc}.gate'::regclass);
    END LOOP;
    RETURN pg_sequence_last_value('{cdc}.gate'::regclass);
END
$open_gate$;

REVOKE ALL ON FUNCTION {cdc}.open_gate(float8) FROM PUBLIC;
