-- One of our triggers. REPLACE forgets ENABLE ALWAYS, so that follows each time.
CREATE OR REPLACE TRIGGER {trigger} AFTER {event} ON {table}
    {transition_tables} FOR EACH {level} EXECUTE FUNCTION {cdc}.{function}({arguments})
