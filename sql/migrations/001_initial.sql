-- Everything of ours that is not a function: the schema and three sequences. Sequences, because their values are
-- seen at once and by everybody, whatever snapshot the reader or the writer works under.
CREATE SCHEMA {cdc};
COMMENT ON SCHEMA {cdc} IS 'cdc_bridge: row changes to WebSocket clients. Remove with: cdc-bridge detach --all --purge';
REVOKE ALL ON SCHEMA {cdc} FROM PUBLIC;

-- Numbers the payloads. Equal payloads of one transaction would be folded into one by PostgreSQL.
CREATE SEQUENCE {cdc}.seq;

-- Steps when a trigger could not tell what changed, see capture().
CREATE SEQUENCE {cdc}.gap;

-- Names the channel. Any role may LISTEN to a channel whose name it knows, so the name is 60 random bits that only
-- the owner may read.
CREATE SEQUENCE {cdc}.channel NO CYCLE;
SELECT setval('{cdc}.channel'::regclass,
    1 + ('x' || left(random.hex, 12) || right(random.hex, 3))::bit(60)::bigint)
FROM (SELECT replace(gen_random_uuid()::text, '-', '') AS hex) AS random;
