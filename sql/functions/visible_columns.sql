-- The columns of a relation without the excluded ones, each behind `prefix`, as a list for SELECT.
--
-- An excluded column is given as 'number:name'. Either of them excludes: the number follows a rename, the name
-- survives dump and restore, where numbers can change.
CREATE OR REPLACE FUNCTION {cdc}.visible_columns(relation oid, excluded text[], prefix text) RETURNS text
LANGUAGE sql STABLE
AS $visible_columns$
    SELECT string_agg(prefix || quote_ident(a.attname), ', ' ORDER BY a.attnum)
    FROM pg_attribute a
    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
      AND NOT EXISTS (
          SELECT FROM unnest(excluded) AS e
          WHERE split_part(e, ':', 1) = a.attnum::text OR substr(e, strpos(e, ':') + 1) = a.attname)
$visible_columns$;
