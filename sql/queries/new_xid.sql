-- An id that is younger than that of every transaction which has one already. A snapshot does not tell: its xmax is the
-- youngest that has ended, and who has begun since is not in it.
SELECT pg_current_xact_id()::text::bigint
