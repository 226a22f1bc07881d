-- How a trigger of ours is made and dropped.

-- name: create
-- One of our triggers. REPLACE forgets ENABLE ALWAYS, so that follows each time. The condition is that of condition.sql in
-- the mode durable, and none in the mode live.
CREATE OR REPLACE TRIGGER {trigger} AFTER {event} ON {table}
    {transition_tables} FOR EACH {level} {condition} EXECUTE FUNCTION {cdc}.{function}({arguments})

-- name: condition
-- Always true, and there for what it names: it makes the trigger depend on the view change_log, and so on every table and
-- column of the log, and on the sequences and functions without which a write would fail. A plain DROP of these is refused
-- then, and DROP ... CASCADE takes the trigger along, by which one sees what has happened. Only the trigger for TRUNCATE
-- has it, since a condition takes four microseconds of every statement; the others go on, and what they cannot write is a gap.
WHEN ((NULL::{cdc}.change_log) IS NULL
    AND '{cdc}.gap'::pg_catalog.regclass IS NOT NULL
    AND '{cdc}.closed'::pg_catalog.regclass IS NOT NULL
    AND '{cdc}.gate'::pg_catalog.regclass IS NOT NULL
    AND '{cdc}.mark_gap()'::pg_catalog.regprocedure IS NOT NULL
    AND '{cdc}.record(text, oid, text, text)'::pg_catalog.regprocedure IS NOT NULL
    AND '{cdc}.record_batch(text, oid, text[], text[])'::pg_catalog.regprocedure IS NOT NULL
    AND '{cdc}.tell(text, oid, pg_lsn, text, text, int)'::pg_catalog.regprocedure IS NOT NULL)

-- name: enable_always
-- Let one of our triggers fire also in sessions that replicate.
ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}

-- name: drop
-- Remove one of our triggers. IF EXISTS: the table may have been detached since the plan was made.
DROP TRIGGER IF EXISTS {trigger} ON {table}
