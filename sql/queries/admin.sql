-- What attach, detach, status and repair ask besides tables.sql.

-- name: version
-- The schema of that name, if it is there: whether it is one of ours (which its comment says, or our functions in it),
-- whether it has the function that tells its version, whether we may use it and change it, whether it is our own, and whose it is.
SELECT
    coalesce(pg_catalog.starts_with(pg_catalog.obj_description(n.oid, 'pg_namespace'), 'cdc_bridge: '), false) OR (
        SELECT pg_catalog.count(*) = 3 FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = n.oid AND p.proname IN ('capture', 'capture_row', 'version') AND p.pronargs = 0),
    EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.pronamespace = n.oid AND p.proname = 'version' AND p.pronargs = 0),
    pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
    pg_catalog.pg_has_role(n.nspowner, 'USAGE'),
    pg_catalog.pg_get_userbyid(n.nspowner) = CURRENT_USER,
    pg_catalog.pg_get_userbyid(n.nspowner)
FROM pg_catalog.pg_namespace n
WHERE n.nspname = %(schema)s

-- name: call_version
-- The version of our SQL in this database, where the function that tells it is there.
SELECT {cdc}.version()

-- name: published
-- The publications of all tables, ours too, and whether a subscriber has a slot here.
SELECT pubname, EXISTS (
    SELECT FROM pg_replication_slots WHERE plugin = 'pgoutput' AND database = current_database())
FROM pg_publication
WHERE puballtables
ORDER BY pubname

-- name: live_tables
-- The tables with a trigger of ours that can only notify; of partitions, their root.
SELECT DISTINCT n.nspname, c.relname
FROM pg_trigger t
JOIN pg_proc p ON p.oid = t.tgfoid
JOIN pg_namespace f ON f.oid = p.pronamespace
JOIN pg_class c ON c.oid = coalesce(pg_partition_root(t.tgrelid), t.tgrelid)
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE f.nspname = %(schema)s AND p.proname IN ('capture', 'capture_row') AND starts_with(t.tgname, %(prefix)s)
ORDER BY n.nspname, c.relname

-- name: resolve
-- The relation that a person's text names: first as it is written, then as PostgreSQL reads it.
SELECT c.oid::bigint
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  AND (c.relname = %(text)s AND (n.nspname = 'public' OR n.oid = pg_my_temp_schema())
    OR n.nspname || '.' || c.relname = %(text)s
    OR n.nspname = %(parts_schema)s AND c.relname = %(parts_name)s)
ORDER BY n.nspname = 'public' AND c.relname = %(text)s DESC, n.nspname || '.' || c.relname = %(text)s DESC
LIMIT 1

-- name: schemas
-- Which of the given schemas there are.
SELECT n.nspname FROM pg_namespace n WHERE n.nspname = ANY(%(schemas)s)

-- name: tables_of_schema
-- Every table of the given schemas that could be attached; partitions come with their root.
SELECT c.oid::bigint
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%(schemas)s) AND n.nspname <> %(schema)s
  AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
ORDER BY n.nspname, c.relname

-- name: listeners
-- The bridges in this database. Of the sessions that a bridge has, one listens, another sends heartbeats and several
-- read, as many as are needed just now; so each bridge is counted by the one that listens.
SELECT pid, application_name, host(client_addr) AS client_address, backend_start AS since
FROM pg_stat_activity
WHERE datname = current_database() AND starts_with(application_name, %(listen)s)
ORDER BY backend_start, pid

-- name: bridges
-- The bridges of this database that say which version they are and how far behind, and how long ago they did; null where
-- this role may not see that.
SELECT pid, application_name, date_part('epoch', clock_timestamp() - query_start)
FROM pg_stat_activity
WHERE datname = current_database() AND starts_with(application_name, %(heartbeat)s)
ORDER BY pid

-- name: lock_holders
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
  AND l.mode <> ALL(%(harmless)s::text[]) AND (a.pid IS NOT NULL OR x.gid IS NOT NULL)
ORDER BY held_s DESC NULLS LAST

-- name: policies
-- What policies say, as PostgreSQL prints it where names mean its own, and a digest of it that access.sql has too.
-- This takes a lock on their tables, the weakest.
SELECT oid::bigint, md5(polqual::text), pg_get_expr(polqual, polrelid)
FROM pg_policy
WHERE oid = ANY (%(oids)s) AND polqual IS NOT NULL

-- name: strangers
-- What stands in our schema and is not ours. Indexes are not looked at: they are where their tables are.
SELECT c.relname
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relkind NOT IN ('i', 'I')
  AND (c.relkind, c.relname) NOT IN (
      VALUES ('S'::"char", 'seq'::name), ('S', 'gap'), ('S', 'channel'), ('S', 'segment_bytes'), ('S', 'closed'), ('S', 'gate'), ('S', 'lease'), ('S', 'mended'), ('S', 'gap_logged'),
          ('v', 'change_log'), ('r', 'forgotten'), ('r', 'segment'), ('r', 'errand'), ('r', 'setting'), ('r', 'secret'), ('r', 'generation'),
          ('r', 'change_log_0'), ('r', 'change_log_1'), ('r', 'change_log_2'), ('r', 'change_log_3'),
          ('r', 'change_log_4'), ('r', 'change_log_5'), ('r', 'change_log_6'), ('r', 'change_log_7'))
UNION ALL
SELECT p.proname
FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = %(schema)s AND p.proname <> ALL (%(functions)s::name[])
  AND NOT starts_with(p.proname, 'capture_durable')
LIMIT 1

-- name: unreadable
-- Which of our sequences this role may not read. PostgreSQL 17 and newer say NULL of the last value of those, instead of refusing, and a
-- gap would pass unnoticed.
WITH ours AS MATERIALIZED (
    SELECT c.oid, c.relname
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relkind = 'S' AND c.relname <> 'seq'
)
SELECT relname
FROM ours
WHERE NOT (has_sequence_privilege(oid, 'SELECT') OR has_sequence_privilege(oid, 'USAGE'))
ORDER BY relname
