-- The process id of the server session that a transaction runs in. Nothing is set by then, so names are spelled in full.
SELECT pg_catalog.pg_backend_pid()
