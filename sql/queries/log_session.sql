-- The settings of a session that reads the log. Its tables have no statistics, since nobody analyses them, and the planner
-- would rather read them from end to end. Once a session.
SELECT pg_catalog.set_config('enable_seqscan', 'off', false), pg_catalog.set_config('jit', 'off', false)
