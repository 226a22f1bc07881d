-- Always true, and there for what it names: it makes the trigger depend on the view change_log, and so on every table and
-- column of the log. A plain DROP of these is refused then, and DROP ... CASCADE takes the triggers along, where it would
-- else leave the application with triggers that find no log. A function in the SQL-standard form would depend likewise,
-- but has to be called for every statement.
WHEN ((NULL::{cdc}.change_log) IS NULL)
