-- cdc_bridge, version {version} of its SQL. It makes one schema with its change log and functions, and touches no other table.
BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
