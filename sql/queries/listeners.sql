-- The sessions of bridges in this database.
SELECT pid, application_name, host(client_addr) AS client_address, backend_start AS since
FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'cdc\_bridge%%'
ORDER BY backend_start, pid
