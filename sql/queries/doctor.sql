-- What doctor asks besides what status does. Each statement runs in a read-only transaction that is rolled back.

-- name: doctor_session
-- The settings of such a transaction, and of it alone: names that mean PostgreSQL's own, and an end to everything.
SELECT pg_catalog.set_config(name, setting, true)
FROM (VALUES ('search_path', 'pg_catalog, pg_temp'), ('jit', 'off'), ('statement_timeout', '5s'), ('lock_timeout', '100ms'),
    ('idle_in_transaction_session_timeout', '60s')) AS wanted(name, setting)

-- name: doctor_clock
-- The server's clock.
SELECT date_part('epoch', clock_timestamp())

-- name: doctor_paused
-- Whether changes have been kept from a hot standby.
SELECT pg_is_wal_replay_paused()

-- name: doctor_replicated
-- The subscriptions that write the log of a publisher into ours.
SELECT DISTINCT s.subname
FROM pg_subscription_rel r
JOIN pg_subscription s ON s.oid = r.srsubid
JOIN pg_class c ON c.oid = r.srrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND starts_with(c.relname, 'change_log_')
ORDER BY s.subname

-- name: doctor_two_phase
-- How many two-phase transactions there can be.
SELECT current_setting('max_prepared_transactions')::int

-- name: doctor_queue
-- How full the queue of notifications is.
SELECT pg_notification_queue_usage()

-- name: doctor_transactions
-- Transactions that have an id, of every database, since snapshots know of all of them: their sessions, and for how long
-- they have been going on. A role that may not see that of others gets null.
SELECT pid, datname, usename, application_name, state, date_part('epoch', clock_timestamp() - xact_start),
    to_char(query_start, 'YYYY-MM-DD HH24:MI:SS TZ')
FROM pg_stat_activity
WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
ORDER BY xact_start NULLS LAST

-- name: doctor_prepared
-- Prepared transactions and their age.
SELECT gid, owner::text, database::text, date_part('epoch', clock_timestamp() - prepared)
FROM pg_prepared_xacts
ORDER BY prepared

-- name: doctor_data_directory
-- Where the server keeps its data.
SELECT current_setting('data_directory')

-- name: doctor_functions
-- Our trigger functions that do not run with the rights of the owner of our schema: the name, and whose they are.
SELECT p.proname, pg_get_userbyid(p.proowner), p.prosecdef
FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = %(schema)s AND p.prorettype = 'trigger'::regtype AND (p.proowner <> n.nspowner OR NOT p.prosecdef)
ORDER BY p.proname

-- name: doctor_connected
-- In place of recorded.sql: the role that is connected.
runtime AS (SELECT oid, rolname FROM pg_roles WHERE rolname = CURRENT_USER)

-- name: doctor_widths
-- How many bytes a row of these tables has on average, with its long values, by the last VACUUM and ANALYZE. From catalogs
-- only, which takes no lock.
SELECT c.oid::bigint, ((c.relpages + coalesce(long.relpages, 0)) * current_setting('block_size')::float8 / c.reltuples)::int8
FROM pg_class c
LEFT JOIN pg_class long ON long.oid = c.reltoastrelid
WHERE c.oid = ANY(%(oids)s::oid[]) AND c.reltuples >= 100

-- name: doctor_changed_segments
-- Segments of the log that somebody has emptied, replaced or rewritten by hand, and that no bridge has noted yet.
SELECT {cdc}.changed_segments()

-- name: doctor_written
-- How many writes the log holds, by the statistics of its segments.
SELECT coalesce(sum(s.n_live_tup), 0)::float8
FROM pg_stat_user_tables s
WHERE s.schemaname = %(schema)s AND s.relname ~ '^change_log_[0-7]$'

-- name: doctor_statements
-- How many milliseconds statements that write take on average in this database, trigger included, and how many there were.
SELECT sum(total_exec_time) / sum(calls), sum(calls)::int8
FROM {statements}
WHERE toplevel AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND query ~* '^\s*(insert|update|delete|merge)\y'

-- name: doctor_statements_schema
-- Where pg_stat_statements is installed.
SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements'

-- name: doctor_explain
-- The plan of a question that a bridge would ask.
EXPLAIN (FORMAT JSON) {question}

-- name: doctor_as_role
-- Names and claims as a policy finds them, for a client with this role and no claims.
SELECT set_config('role', %(role)s, true), set_config('request.jwt.claims', '{{}}', true),
    set_config('search_path', concat_ws(', ', 'pg_catalog', nullif(reset_val, ''), 'pg_temp'), true)
FROM pg_settings
WHERE name = 'search_path'
