-- The bridges in this database. Of the sessions that a bridge has, one listens, another sends heartbeats and several
-- read, as many as are needed just now; so each bridge is counted by the one that listens.
SELECT pid, application_name, host(client_addr) AS client_address, backend_start AS since
FROM pg_stat_activity
WHERE datname = current_database() AND application_name = %(listen)s
ORDER BY backend_start, pid
