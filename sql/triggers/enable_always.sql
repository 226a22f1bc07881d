-- Let one of our triggers fire also in sessions that replicate.
ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}
