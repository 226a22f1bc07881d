-- Let writers go on from this segment of the change log to the next one, also where it was closed; false when that is not empty.
SELECT {cdc}.advance_segment({number})
