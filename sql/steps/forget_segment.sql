-- Empty one segment of the change log, in a transaction of its own.
SELECT {cdc}.forget_segment({number})
