-- All tables that a task changes, in one go.
LOCK TABLE {tables} IN {mode} MODE
