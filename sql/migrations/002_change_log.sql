-- The change log of the mode `durable`, and what goes with it.
--
-- The log is a ring of eight tables. Writers insert into one of them, readers read all by the view change_log, and the
-- oldest is emptied whole, by TRUNCATE: no vacuum, no long lock. Which one is written to says the function
-- current_segment(); the one after it is always kept empty, so that writers can go on to it at any time.
DO $segments$
DECLARE
    branches text[] := '{{}}';
    segment text;
BEGIN
    FOR number IN 0..7 LOOP
        segment := format('{cdc}.change_log_%s', number);
        EXECUTE format($table$
            CREATE TABLE %s (
                seq pg_lsn NOT NULL,
                xid xid8 NOT NULL,
                at timestamptz NOT NULL,
                relation oid NOT NULL,
                filenode oid NOT NULL,
                operation "char" NOT NULL,
                old text,
                new text
            ) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off)
            $table$, segment);
        BEGIN
            EXECUTE format('ALTER TABLE %s ALTER old SET COMPRESSION lz4, ALTER new SET COMPRESSION lz4', segment);
        EXCEPTION WHEN feature_not_supported OR invalid_parameter_value THEN
            -- This server was built without it, and pglz takes longer than the rest of what a writer pays for the log.
            EXECUTE format('ALTER TABLE %s ALTER old SET STORAGE EXTERNAL, ALTER new SET STORAGE EXTERNAL', segment);
        END;
        EXECUTE format('CREATE INDEX ON %s (xid)', segment);
        branches := branches || format(
            'SELECT %s AS segment, seq, xid, at, relation, filenode, operation, old, new FROM %s', number, segment);
    END LOOP;
    EXECUTE 'CREATE VIEW {cdc}.change_log AS ' || array_to_string(branches, ' UNION ALL ');
END
$segments$;
COMMENT ON VIEW {cdc}.change_log IS 'Row changes of the tables attached in the mode durable. Triggers depend on it.';

-- How many bytes of log a segment takes; a sixth of what the bridges' setting `retention_bytes` says.
CREATE SEQUENCE {cdc}.segment_bytes MINVALUE 1;

-- Has a value while the log is full and nothing is written to it, see make_room().
CREATE SEQUENCE {cdc}.closed;

-- Writers notify while its value is odd. Each opening and shutting is a new value.
CREATE SEQUENCE {cdc}.gate MINVALUE 0 START 0;

-- Until when bridges want to be notified, in microseconds since 1970 by this server's clock, unless they say so again.
CREATE SEQUENCE {cdc}.lease MINVALUE 0 START 0;

-- The last value of the sequence gap, for standbys: of a sequence's next 32 values they see no more than that they may come.
CREATE SEQUENCE {cdc}.gap_logged MINVALUE 0 START 0;

-- The value of the sequence gap of which it is known that every transaction which could have stepped it has ended.
CREATE SEQUENCE {cdc}.mended MINVALUE 0 START 0;

DO $values$
BEGIN
    PERFORM setval('{cdc}.mended'::regclass, 0), setval('{cdc}.gap_logged'::regclass, 0), setval('{cdc}.segment_bytes'::regclass, (1024 * 1024 * 1024) / 6), setval('{cdc}.gate'::regclass, 0),
        setval('{cdc}.lease'::regclass, 0);
END
$values$;

-- What was forgotten: the ids of the oldest and the youngest transaction in a segment that was emptied. NULL where they
-- were not known, since it was emptied by hand. Of those between them, only who had ended by then, which `seen` says, can
-- have written there: the segment's lock waits for the others. But for who emptied it, `by`, should that have been a writer.
CREATE TABLE {cdc}.forgotten (
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    by xid8 NOT NULL DEFAULT pg_current_xact_id(),
    seen pg_snapshot NOT NULL DEFAULT pg_current_snapshot(),
    segment int NOT NULL,
    oldest xid8,
    youngest xid8
);

-- The storage of each segment, the relfilenode, as we have left it: another one was emptied, replaced or rewritten by
-- somebody else, and what was in it may be gone. 0: there is none, which is known.
CREATE TABLE {cdc}.segment (
    number int PRIMARY KEY,
    storage oid NOT NULL
);
INSERT INTO {cdc}.segment
SELECT number, pg_relation_filenode(format('{cdc}.change_log_%s', number)::regclass) FROM generate_series(0, 7) AS number;

-- Always empty: who inserts a row and deletes it has started what run_errand() does when the transaction ends.
CREATE TABLE {cdc}.errand (
    is_last boolean NOT NULL
);

-- What the operator has decided for all bridges of this database.
CREATE TABLE {cdc}.setting (
    name text PRIMARY KEY,
    value text NOT NULL
);
INSERT INTO {cdc}.setting VALUES ('notify', 'auto');

-- With what the bridges seal the positions that they hand to clients.
CREATE TABLE {cdc}.secret (
    key uuid[] NOT NULL
);
INSERT INTO {cdc}.secret VALUES (ARRAY[gen_random_uuid(), gen_random_uuid(), gen_random_uuid()]);

-- The generation: the life of the database that positions belong to. UNLOGGED, so that a crash, a failover and a restore
-- from a base backup empty it; `home` tells when a dump has brought the row along to another place.
CREATE UNLOGGED TABLE {cdc}.generation (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    token uuid NOT NULL DEFAULT gen_random_uuid(),
    home text NOT NULL
);

-- As in the first migration: nobody but the owner, whatever ALTER DEFAULT PRIVILEGES says.
DO $close$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT DISTINCT c.oid::regclass::text AS name, CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END AS grantee
        FROM pg_class c
        CROSS JOIN LATERAL aclexplode(c.relacl) AS acl
        LEFT JOIN pg_roles r ON r.oid = acl.grantee
        WHERE c.relnamespace = '{cdc}'::regnamespace AND acl.grantee <> c.relowner
          AND (c.relkind IN ('r', 'v') OR c.relname IN ('segment_bytes', 'closed', 'gate', 'lease', 'mended', 'gap_logged'))
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', given.name, given.grantee);
    END LOOP;
END
$close$;
