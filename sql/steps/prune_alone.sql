-- One prunes at a time, until it says so or its session ends.
SELECT pg_try_advisory_lock(hashtext('cdc_bridge prune'), hashtext({name}))
