-- Remove one of our triggers. IF EXISTS: the table may have been detached since the plan was made.
DROP TRIGGER IF EXISTS {trigger} ON {table}
