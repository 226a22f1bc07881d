-- CASCADE reaches no table of the application: the triggers that need our functions are gone by then.
DROP SCHEMA IF EXISTS {cdc} CASCADE
