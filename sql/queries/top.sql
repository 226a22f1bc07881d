-- What top asks every few seconds.

-- name: table_writes
-- How many rows of each attached table, with its partitions, were inserted, updated and deleted since PostgreSQL's statistics were
-- reset. What a session has written is counted there within a second of its commit.
SELECT n.nspname, c.relname, sum(s.n_tup_ins)::int8, sum(s.n_tup_upd)::int8, sum(s.n_tup_del)::int8
FROM (
    SELECT DISTINCT t.tgrelid AS oid, coalesce(pg_partition_root(t.tgrelid), t.tgrelid)::oid AS root
    FROM pg_trigger t
    JOIN pg_proc p ON p.oid = t.tgfoid
    JOIN pg_namespace f ON f.oid = p.pronamespace
    WHERE f.nspname = %(schema)s AND starts_with(t.tgname, %(prefix)s)
) AS attached
JOIN pg_stat_all_tables s ON s.relid = attached.oid
JOIN pg_class c ON c.oid = attached.root
JOIN pg_namespace n ON n.oid = c.relnamespace
GROUP BY n.nspname, c.relname
ORDER BY n.nspname, c.relname

-- name: database_activity
-- The server's clock; how many rows were written to the log; how full the queue of notifications is; how old the oldest
-- transaction in progress is that writes, as far as this role may see that, and whether it may.
SELECT date_part('epoch', clock_timestamp()),
    (SELECT coalesce(sum(n_tup_ins), 0)::int8
     FROM pg_stat_all_tables
     WHERE schemaname = %(schema)s AND starts_with(relname, 'change_log_')),
    pg_notification_queue_usage(),
    (SELECT max(date_part('epoch', clock_timestamp() - xact_start))
     FROM pg_stat_activity
     WHERE datname = current_database() AND backend_xid IS NOT NULL AND pid <> pg_backend_pid()),
    pg_has_role('pg_read_all_stats', 'USAGE')
