-- How long a statement of this transaction may wait for a lock.
SELECT pg_catalog.set_config('lock_timeout', %(limit)s, true)
