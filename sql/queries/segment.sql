-- One segment of the change log: its size with index and long values, whether it is empty, and the ages of its oldest and
-- newest row in seconds. Empty means without a page: rows that nobody sees yet count.
--
-- There is no index on `at`, which would cost each writer. Transactions are numbered in about the order of time, so the
-- rows of the oldest and of the youngest tell; a long transaction goes on writing after younger ones, so of the newest rows
-- the last page is asked too. What is still wrong is wrong by the length of one transaction, and only decides when to forget.
SELECT pg_total_relation_size(segment.oid), pages.count = 0,
    (SELECT date_part('epoch', clock_timestamp() - at) FROM {segment} ORDER BY xid LIMIT 1),
    date_part('epoch', clock_timestamp() - greatest(
        (SELECT at FROM {segment} ORDER BY xid DESC LIMIT 1),
        (SELECT max(at) FROM {segment} WHERE ctid >= ('(' || greatest(pages.count - 1, 0) || ',0)')::tid)))
FROM (SELECT {name}::regclass AS oid) AS segment
CROSS JOIN LATERAL (
    SELECT pg_relation_size(segment.oid) / current_setting('block_size')::int AS count
) AS pages
