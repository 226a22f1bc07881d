-- What of some tables the log holds that one snapshot did not see and another one does, from some seq on, without the text.
SELECT (log.seq - '0/0'::pg_lsn)::int8, log.xid::text::int8, coalesce(octet_length(log.old), 0) + coalesce(octet_length(log.new), 0)
FROM {cdc}.change_log AS log
WHERE (log.xid >= %(xmax)s::text::xid8 OR log.xid = ANY(%(in_progress)s::text[]::xid8[]))
  AND pg_visible_in_snapshot(log.xid, %(upto)s::text::pg_snapshot) AND log.relation = ANY(%(relations)s::oid[])
  AND log.seq >= '0/0'::pg_lsn + %(seq)s::numeric
ORDER BY log.seq, log.xid
LIMIT %(rows_max)s
