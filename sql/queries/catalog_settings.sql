-- Names mean PostgreSQL's own, whatever is called alike elsewhere; and queries on catalogs are not worth compiling
-- (where it is installed, jit turns their 5 milliseconds into 600). Returns what was set before.
WITH before AS MATERIALIZED (
    SELECT name, pg_catalog.current_setting(name) AS setting
    FROM (VALUES ('search_path'), ('jit')) AS pinned(name)
)
SELECT name, setting, pg_catalog.set_config(name, CASE name WHEN 'jit' THEN 'off' ELSE 'pg_catalog, pg_temp' END, false)
FROM before
