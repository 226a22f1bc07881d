-- Names mean PostgreSQL's own, until the end of the transaction.
SET LOCAL search_path = pg_catalog, pg_temp
