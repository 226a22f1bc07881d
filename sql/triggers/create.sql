-- One of our triggers. REPLACE forgets ENABLE ALWAYS, so that follows each time. The condition is that of condition.sql in
-- the mode durable, and none in the mode live.
CREATE OR REPLACE TRIGGER {trigger} AFTER {event} ON {table}
    {transition_tables} FOR EACH {level} {condition} EXECUTE FUNCTION {cdc}.{function}({arguments})
