-- Which segment of the change log is written to, whether it is full, how many bytes one may take, and whether the gate is open: whether
-- writers notify now.
SELECT mod(coalesce(pg_sequence_last_value('{cdc}.segment'::regclass), 0) / 2, 8)::int,
    -- Odd: a writer has found no room, see make_room().
    mod(coalesce(pg_sequence_last_value('{cdc}.segment'::regclass), 0), 2) = 1,
    coalesce(pg_sequence_last_value('{cdc}.segment_bytes'::regclass), 0),
    coalesce(pg_sequence_last_value('{cdc}.gate'::regclass), 0) > date_part('epoch', clock_timestamp()) * 1000000
