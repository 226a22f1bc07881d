-- Who holds a lock on one of the tables that keeps a trigger from being made, longest transaction first. A prepared transaction has
-- no process; it is told by its identifier.
SELECT DISTINCT l.pid, a.application_name, extract(epoch FROM statement_timestamp() - coalesce(a.xact_start, x.prepared))::float8 AS held_s,
    x.gid, x.owner::text
FROM pg_locks l
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_locks own ON l.pid IS NULL AND own.pid IS NULL AND own.locktype = 'transactionid' AND own.virtualtransaction = l.virtualtransaction
LEFT JOIN pg_prepared_xacts x ON x.transaction = own.transactionid
WHERE l.locktype = 'relation' AND l.relation = ANY(%(oids)s::oid[]) AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.mode = ANY(%(modes)s) AND (a.pid IS NOT NULL OR x.gid IS NOT NULL)
ORDER BY held_s DESC NULLS LAST
