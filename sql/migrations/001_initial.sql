-- Everything of ours that is not a function: the schema and three sequences. Sequences, because their values are
-- seen at once and by everybody, whatever snapshot the reader or the writer works under.
CREATE SCHEMA {cdc};
COMMENT ON SCHEMA {cdc} IS 'cdc_bridge: row changes to WebSocket clients. Remove with: cdc-bridge detach --all --purge';

-- Numbers the payloads. Equal payloads of one transaction would be folded into one by PostgreSQL.
CREATE SEQUENCE {cdc}.seq;

-- Steps when a trigger could not tell what changed, see capture().
CREATE SEQUENCE {cdc}.gap;

-- Names the channel. Any role may LISTEN to a channel whose name it knows, so the name is 60 random bits that only
-- the owner may read.
CREATE SEQUENCE {cdc}.channel NO CYCLE;

-- ALTER DEFAULT PRIVILEGES may have opened them already, and to more than PUBLIC. Once, so that what the owner grants
-- on purpose afterwards stays.
DO $close$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT DISTINCT object.kind, object.name, CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END AS grantee
        FROM (SELECT 'SCHEMA' AS kind, quote_ident(n.nspname) AS name, n.nspowner AS owner, n.nspacl AS acl
              FROM pg_namespace n WHERE n.oid = '{cdc}'::regnamespace
              UNION ALL
              SELECT 'SEQUENCE', c.oid::regclass::text, c.relowner, c.relacl
              FROM pg_class c WHERE c.relnamespace = '{cdc}'::regnamespace AND c.relkind = 'S') AS object
        CROSS JOIN LATERAL aclexplode(object.acl) AS acl
        LEFT JOIN pg_roles r ON r.oid = acl.grantee
        WHERE acl.grantee <> object.owner
    LOOP
        EXECUTE format('REVOKE ALL ON %s %s FROM %s', given.kind, given.name, given.grantee);
    END LOOP;
END
$close$;

DO $name$
BEGIN
    PERFORM setval('{cdc}.channel'::regclass, 1 + ('x' || left(random.hex, 12) || right(random.hex, 3))::bit(60)::bigint)
    FROM (SELECT replace(gen_random_uuid()::text, '-', '') AS hex) AS random;
END
$name$;
