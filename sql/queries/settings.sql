-- Settings of a session, and what they are.

-- name: catalog_settings
-- Names mean PostgreSQL's own, whatever is called alike elsewhere; queries on catalogs are not worth compiling (where it is
-- installed, jit turns their 5 milliseconds into 600); and a transaction sees the state after it has waited for its lock.
-- Returns what was set before.
WITH before AS MATERIALIZED (
    SELECT name, pg_catalog.current_setting(name) AS setting, wanted
    FROM (VALUES ('search_path', 'pg_catalog, pg_temp'), ('jit', 'off'), ('default_transaction_isolation', 'read committed')) AS pinned(name, wanted)
)
SELECT name, setting, pg_catalog.set_config(name, wanted, false)
FROM before

-- name: set_config
-- One setting of the session.
SELECT pg_catalog.set_config(%(name)s, %(setting)s, false)

-- name: written
-- Differs when a row of pg_class was written, be it as before, for tables that the fingerprint is about. Functions that tell
-- rights and print policies read the catalogs as they are, whatever the snapshot.
SELECT bit_xor(hash_record_extended(ROW(oid, xmin), 0))::text
FROM pg_class
WHERE relpersistence <> 't' AND relkind IN ('r', 'p', 'v', 'm', 'f') AND (relhastriggers OR EXISTS (SELECT FROM pg_policy))

-- name: limit_lock
-- How long a statement of this transaction may wait for a lock.
SELECT pg_catalog.set_config('lock_timeout', %(limit)s, true)

-- name: set_principal
-- Read for a principal until the transaction ends: as its role, with its claims, and with names that mean what they mean to it.
SELECT
    set_config('role', %(role)s, true),
    set_config('request.jwt.claims', %(claims)s, true),
    set_config('search_path', current_setting('cdc_bridge.search_path'), true)

-- name: set_search_path
-- Until the transaction ends names mean what they mean to a new connection of ours, after PostgreSQL's own; rights.md says how that
-- is made the application's. What is prepared before a principal is set (set_principal) has to be prepared so, or it is
-- parsed anew, by whoever asks.
SELECT set_config('search_path', current_setting('cdc_bridge.search_path'), true)

-- name: time_zone
-- In which time zone this session would reckon if it were not set to UTC, see session.sql.
SELECT reset_val FROM pg_settings WHERE name = 'TimeZone'

-- name: standby
-- Whether this is a hot standby: yes or no.
SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'yes' ELSE 'no' END
