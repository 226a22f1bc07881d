-- The columns of a relation without the excluded ones, as a list for a SELECT from rows called `r`.
--
-- An excluded column is given as 'number:name'. Either of them excludes: the number follows a rename, the name
-- survives dump and restore, where numbers can change. A partition numbers its columns in its own way but names them
-- as its root does, so numbers are looked up there.
--
-- Rows in a trigger do not hold the values of virtual generated columns, so those are spelled out.
CREATE OR REPLACE FUNCTION {cdc}.visible_columns(relation oid, excluded text[]) RETURNS text
LANGUAGE sql STABLE
AS $visible_columns$
    SELECT coalesce(string_agg(
        CASE a.attgenerated WHEN 'v' THEN format('(%s) AS %I', pg_get_expr(d.adbin, d.adrelid), a.attname)
            ELSE format('r.%I', a.attname) END, ', ' ORDER BY a.attnum), '')
    FROM pg_attribute a
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
      AND a.attname NOT IN (SELECT substr(e, strpos(e, ':') + 1) FROM unnest(excluded) AS e)
      AND a.attname NOT IN (
          SELECT named.attname
          FROM unnest(excluded) AS e
          JOIN pg_attribute named ON named.attnum = split_part(e, ':', 1)::int2
          WHERE named.attrelid = coalesce(pg_partition_root(relation), relation))
$visible_columns$;

REVOKE ALL ON FUNCTION {cdc}.visible_columns(oid, text[]) FROM PUBLIC;
