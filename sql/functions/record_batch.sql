-- Records one batch of a statement that changed many rows; rows that its operation does not have are NULL. Raises where old
-- and new ones do not pair: a row that was to move to another partition, and that a BEFORE trigger there did not let in.
CREATE OR REPLACE FUNCTION {cdc}.record_batch(operation text, relation oid, old_rows text[], new_rows text[]) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $record_batch$
BEGIN
    IF operation = 'U' AND (cardinality(old_rows) <> cardinality(new_rows) OR array_position(old_rows, NULL) > 0
            OR array_position(new_rows, NULL) > 0) THEN
        RAISE EXCEPTION 'cdc_bridge: old and new rows do not pair';
    END IF;
    RETURN {cdc}.record(operation, relation,
        CASE WHEN operation <> 'I' THEN concat('[', array_to_string(old_rows, ','), ']') END,
        CASE WHEN operation <> 'D' THEN concat('[', array_to_string(new_rows, ','), ']') END);
END
$record_batch$;

REVOKE ALL ON FUNCTION {cdc}.record_batch(text, oid, text[], text[]) FROM PUBLIC;
