-- Always true, and there for what it names: it makes the trigger depend on the view change_log, and so on every table and
-- column of the log. A plain DROP of these is refused then, and DROP ... CASCADE takes the trigger along, by which one sees
-- what has happened. Only the trigger for TRUNCATE has it, since a condition takes four microseconds of every statement;
-- the others go on, and what they cannot write is a gap.
WHEN ((NULL::{cdc}.change_log) IS NULL)
