-- Let writers go on from this segment of the change log to the next one, also where it was closed; false when that is not empty.
SELECT CASE WHEN {cdc}.advance_segment({number}) THEN setval('{cdc}.closed'::regclass, 1, false) IS NOT NULL ELSE false END
