-- The version of the installed SQL. It is raised by one whenever a function changes or a migration is added; the
-- migration then carries the new number.
CREATE OR REPLACE FUNCTION {cdc}.version() RETURNS int
LANGUAGE sql IMMUTABLE
AS $version$ SELECT 4 $version$;

REVOKE ALL ON FUNCTION {cdc}.version() FROM PUBLIC;
