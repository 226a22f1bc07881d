-- Wait until nobody else installs or removes our schema; until the end of the transaction.
SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('cdc_bridge'), pg_catalog.hashtext({name}))
