-- Of partitions, each with the table that it was one of, those that are none any more.
SELECT m.oid::bigint
FROM ROWS FROM (pg_catalog.unnest(%(members)s::text[]::oid[]), pg_catalog.unnest(%(roots)s::text[]::oid[])) AS m(oid, root)
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_partition_ancestors(m.oid) AS a(oid) WHERE a.oid = m.root)
