-- The settings of a session that reads the log. Its tables have no statistics, since nobody analyses them, and the planner
-- would rather read them from end to end; and to plan a query for its parameters takes four times as long as to run it.
-- Workers take longer to be started than the rest. Once a session.
SELECT pg_catalog.set_config('enable_seqscan', 'off', false), pg_catalog.set_config('jit', 'off', false),
    pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', false),
    pg_catalog.set_config('max_parallel_workers_per_gather', '0', false)
