-- One setting of the session.
SELECT pg_catalog.set_config(%(name)s, %(setting)s, false)
