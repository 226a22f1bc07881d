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
