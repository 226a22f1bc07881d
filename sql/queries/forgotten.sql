-- What was forgotten of the log: the oldest and the youngest transaction of each segment that was emptied, where the youngest is
-- not older than an id that everything older than has been told of.
SELECT coalesce(oldest, '0'::xid8)::text::int8, coalesce(youngest, by)::text::int8
FROM {cdc}.forgotten
WHERE coalesce(youngest, by) >= %(xmin)s::text::xid8
