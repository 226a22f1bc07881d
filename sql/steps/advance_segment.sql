-- Let writers go on to the next segment of the change log; false when that is not empty.
SELECT {cdc}.advance_segment()
