-- What policies say, as PostgreSQL prints it where names mean its own, and a digest of it that access.sql has too.
-- This takes a lock on their tables, the weakest.
SELECT oid::bigint, md5(polqual::text), pg_get_expr(polqual, polrelid)
FROM pg_policy
WHERE oid = ANY (%(oids)s) AND polqual IS NOT NULL
