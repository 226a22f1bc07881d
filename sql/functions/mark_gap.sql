-- Tells the bridges that something that was committed is not told: steps the sequence `gap`. Returns false.
CREATE OR REPLACE FUNCTION {cdc}.mark_gap() RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $mark_gap$
BEGIN
    PERFORM setval('{cdc}.gap_logged'::regclass, nextval('{cdc}.gap'::regclass));
    RETURN false;
EXCEPTION WHEN OTHERS THEN
    -- Somebody dropped it. The bridges, which cannot read it either, notice by themselves.
    RETURN false;
END
$mark_gap$;

REVOKE ALL ON FUNCTION {cdc}.mark_gap() FROM PUBLIC;
