-- How much of each table the log holds that one snapshot did not see and another one does.
SELECT log.relation::int8, count(*), sum(coalesce(octet_length(log.old), 0) + coalesce(octet_length(log.new), 0))::int8
FROM {cdc}.change_log AS log
WHERE (log.xid >= %(xmax)s::text::xid8 OR log.xid = ANY(%(in_progress)s::text[]::xid8[]))
  AND pg_visible_in_snapshot(log.xid, %(upto)s::text::pg_snapshot) AND log.relation <> ALL(%(apart)s::oid[])
GROUP BY log.relation
