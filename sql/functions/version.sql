-- The version of the installed SQL: the number of the last migration, raised too when a function changes.
CREATE OR REPLACE FUNCTION {cdc}.version() RETURNS int
LANGUAGE sql IMMUTABLE
AS $version$ SELECT 1 $version$;
