-- What policies say, as PostgreSQL prints it where names mean its own. This takes a lock on their tables, the weakest.
SELECT oid::bigint, pg_get_expr(polqual, polrelid)
FROM pg_policy
WHERE oid = ANY (%(oids)s) AND polqual IS NOT NULL
