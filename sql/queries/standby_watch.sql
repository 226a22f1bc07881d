-- As `watch`, on a hot standby: whether it still is one, and the gaps.
SELECT pg_is_in_recovery(), coalesce(pg_sequence_last_value('{cdc}.gap_logged'::regclass), 0),
    coalesce(pg_sequence_last_value('{cdc}.mended'::regclass), 0)
