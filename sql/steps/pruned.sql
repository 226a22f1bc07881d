-- The next one may prune.
SELECT pg_advisory_unlock(hashtext('cdc_bridge prune'), hashtext({name}))
