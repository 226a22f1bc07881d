-- Of what was forgotten make one row of all that need not be told apart any more. It counts everything up to its `youngest` as
-- forgotten, and so covers the rows that it takes the place of. Nothing happens where there is one such row, or none.
--
-- A row need not be told apart when at some later moment, `seen` of another row, everybody of its time had ended, so that no
-- position from after that has to do with it; while positions from before that are forgotten anyway, since a third row has
-- somebody younger than all that the moment saw. A merged row has no moment.
CREATE OR REPLACE FUNCTION {cdc}.merge_forgotten() RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $merge_forgotten$
    WITH known AS (
        SELECT ctid AS place, seen, oldest IS NOT DISTINCT FROM '0'::xid8 AS is_merged,
            coalesce(youngest::text::int8, pg_snapshot_xmax(seen)::text::int8 - 1) AS youngest
        FROM {cdc}.forgotten
    ),
    horizon AS (
        SELECT max(pg_snapshot_xmin(moment.seen)::text::int8) AS xmin
        FROM known AS moment
        WHERE NOT moment.is_merged
          AND pg_snapshot_xmax(moment.seen)::text::int8 <= (SELECT max(youngest) FROM known)
    ),
    past AS (
        SELECT known.place, known.youngest FROM known, horizon WHERE known.youngest < horizon.xmin
    ),
    gone AS (
        DELETE FROM {cdc}.forgotten WHERE ctid IN (SELECT place FROM past) AND (SELECT count(*) FROM past) > 1
        RETURNING coalesce(youngest::text::int8, pg_snapshot_xmax(seen)::text::int8 - 1) AS youngest
    )
    INSERT INTO {cdc}.forgotten (segment, oldest, youngest, seen)
    SELECT -1, '0', youngest::text::xid8, format('%s:%s:', youngest + 1, youngest + 1)::pg_snapshot
    FROM (SELECT max(youngest) AS youngest FROM gone) AS merged
    WHERE youngest IS NOT NULL
$merge_forgotten$;

REVOKE ALL ON FUNCTION {cdc}.merge_forgotten() FROM PUBLIC;
