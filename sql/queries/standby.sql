-- Whether this is a hot standby: yes or no.
SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'yes' ELSE 'no' END
