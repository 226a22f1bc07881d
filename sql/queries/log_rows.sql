-- Rows of the log by transaction and seq; those of one statement in the order in which it wrote them, as `log_new`.
SELECT (log.seq - '0/0'::pg_lsn)::int8, log.xid::text::int8, log.relation::int8, log.filenode::int8, log.operation::text,
    (date_part('epoch', log.at) * 1000000)::int8, log.old, log.new
FROM {cdc}.change_log AS log
WHERE log.xid = ANY(%(xids)s::text[]::xid8[]) AND log.relation = ANY(%(relations)s::oid[])
  AND log.seq BETWEEN '0/0'::pg_lsn + %(first)s::numeric AND '0/0'::pg_lsn + %(last)s::numeric
ORDER BY log.seq, log.xid, log.at
