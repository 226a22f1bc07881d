-- Whether the change log should be pruned now, and not only once a minute: a writer has found no room, the current segment is
-- full, the next one is not empty, or somebody has changed a segment by hand.
SELECT pg_sequence_last_value('{cdc}.closed'::regclass) IS NOT NULL
    OR EXISTS (SELECT FROM {cdc}.changed_segments())
    OR EXISTS (
        SELECT
        FROM pg_class c
        WHERE c.relnamespace = '{cdc}'::regnamespace AND c.relkind = 'r'
            AND (c.relname = 'change_log_' || {cdc}.current_segment()
                    AND pg_total_relation_size(c.oid) > pg_sequence_last_value('{cdc}.segment_bytes'::regclass)
                OR c.relname = 'change_log_' || (({cdc}.current_segment() + 1) % 8) AND pg_relation_size(c.oid) > 0)
    )
