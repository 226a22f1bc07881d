-- cdc_bridge, version {version} of its SQL. It makes one schema with its functions and touches no table.
BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
