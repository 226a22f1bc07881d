-- Which segment of the change log is written to, whether none is, since a writer has found no room (see make_room), how many
-- bytes one may take, and whether the gate is open: whether writers notify now.
SELECT {cdc}.current_segment(), pg_sequence_last_value('{cdc}.closed'::regclass) IS NOT NULL,
    coalesce(pg_sequence_last_value('{cdc}.segment_bytes'::regclass), 0),
    coalesce(pg_sequence_last_value('{cdc}.gate'::regclass), 0) & 1 = 1
        AND pg_sequence_last_value('{cdc}.lease'::regclass) > date_part('epoch', clock_timestamp()) * 1000000
