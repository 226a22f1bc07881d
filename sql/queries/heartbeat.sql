-- A notification that takes the way of the triggers'; it comes after all that its snapshot sees.
SELECT pg_notify(%(channel)s, %(head)s || pg_current_snapshot()::text)
