-- Part of grant and missing, and nothing by itself: what the runtime role needs of our schema, all of it (`rights`). There is
-- nothing in it by which rows of the application's tables could be read past their own GRANTs, but for the log and the
-- notifications, which are what a bridge is for; and nothing by which a row of the log could be written or changed.
rights(kind, name, privilege) AS (
    VALUES
        ('SCHEMA', '', 'USAGE'),
        ('TABLE', 'change_log', 'SELECT'),  -- what changed
        ('TABLE', 'change_log_0', 'SELECT'), ('TABLE', 'change_log_1', 'SELECT'),  -- how large and how old each part of it is
        ('TABLE', 'change_log_2', 'SELECT'), ('TABLE', 'change_log_3', 'SELECT'),
        ('TABLE', 'change_log_4', 'SELECT'), ('TABLE', 'change_log_5', 'SELECT'),
        ('TABLE', 'change_log_6', 'SELECT'), ('TABLE', 'change_log_7', 'SELECT'),
        ('TABLE', 'forgotten', 'SELECT'),  -- what is no longer in it
        ('TABLE', 'setting', 'SELECT'),  -- whether writers notify at all
        ('SEQUENCE', 'channel', 'SELECT'),  -- where they do
        ('SEQUENCE', 'gate', 'SELECT'),  -- whether they do now
        ('SEQUENCE', 'lease', 'SELECT'),
        ('SEQUENCE', 'closed', 'SELECT'),
        ('SEQUENCE', 'gap', 'SELECT'),  -- whether one could not tell what changed
        ('SEQUENCE', 'gap_logged', 'SELECT'),
        ('SEQUENCE', 'mended', 'SELECT'), ('SEQUENCE', 'mended', 'UPDATE'),
        ('SEQUENCE', 'segment_bytes', 'SELECT'), ('SEQUENCE', 'segment_bytes', 'UPDATE'),  -- retention_bytes
        ('FUNCTION', 'version', 'EXECUTE'),
        ('FUNCTION', 'begin_era', 'EXECUTE'),  -- the life of the database, the key of cursors
        ('FUNCTION', 'standby_era', 'EXECUTE'),
        ('FUNCTION', 'open_gate', 'EXECUTE'),
        ('FUNCTION', 'shut_gate', 'EXECUTE'),
        ('FUNCTION', 'record_notify', 'EXECUTE'),  -- serve --notify
        ('FUNCTION', 'changed_segments', 'EXECUTE'),  -- what somebody has done to the log by hand
        ('FUNCTION', 'note_segments', 'EXECUTE'),
        ('FUNCTION', 'current_segment', 'EXECUTE'),  -- pruning
        ('FUNCTION', 'merge_forgotten', 'EXECUTE'),
        ('FUNCTION', 'forget_segment', 'EXECUTE'),
        ('FUNCTION', 'advance_segment', 'EXECUTE'),
        ('FUNCTION', 'drop_index', 'EXECUTE'),
        ('FUNCTION', 'find_room', 'EXECUTE')
)
