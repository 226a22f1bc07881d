-- Which of some transactions the log has something of that can be seen.
SELECT DISTINCT log.xid::text FROM {cdc}.change_log AS log WHERE log.xid = ANY(%(xids)s::text[]::xid8[])
