-- What cdc-bridge 0.1.0 installed (version 3 of its SQL), without comments, to be upgraded by a test.
BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
CREATE SCHEMA "cdc";
COMMENT ON SCHEMA "cdc" IS 'cdc_bridge: row changes to WebSocket clients. Remove with: cdc-bridge detach --all --purge';
CREATE SEQUENCE "cdc".seq;
CREATE SEQUENCE "cdc".gap;
CREATE SEQUENCE "cdc".channel NO CYCLE;
DO $close$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT DISTINCT object.kind, object.name, CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END AS grantee
        FROM (SELECT 'SCHEMA' AS kind, quote_ident(n.nspname) AS name, n.nspowner AS owner, n.nspacl AS acl
              FROM pg_namespace n WHERE n.oid = '"cdc"'::regnamespace
              UNION ALL
              SELECT 'SEQUENCE', c.oid::regclass::text, c.relowner, c.relacl
              FROM pg_class c WHERE c.relnamespace = '"cdc"'::regnamespace AND c.relkind = 'S') AS object
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
    PERFORM setval('"cdc".channel'::regclass, 1 + ('x' || left(random.hex, 12) || right(random.hex, 3))::bit(60)::bigint)
    FROM (SELECT replace(gen_random_uuid()::text, '-', '') AS hex) AS random;
END
$name$;
DO $segments$
DECLARE
    branches text[] := '{}';
    segment text;
BEGIN
    FOR number IN 0..7 LOOP
        segment := format('"cdc".change_log_%s', number);
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
            EXECUTE format('ALTER TABLE %s ALTER old SET STORAGE EXTERNAL, ALTER new SET STORAGE EXTERNAL', segment);
        END;
        EXECUTE format('CREATE INDEX ON %s (xid)', segment);
        branches := branches || format(
            'SELECT %s AS segment, seq, xid, at, relation, filenode, operation, old, new FROM %s', number, segment);
    END LOOP;
    EXECUTE 'CREATE VIEW "cdc".change_log AS ' || array_to_string(branches, ' UNION ALL ');
END
$segments$;
COMMENT ON VIEW "cdc".change_log IS 'Row changes of the tables attached in the mode durable. Triggers depend on it.';
CREATE SEQUENCE "cdc".segment_bytes MINVALUE 1;
CREATE SEQUENCE "cdc".closed;
CREATE SEQUENCE "cdc".gate MINVALUE 0 START 0;
CREATE SEQUENCE "cdc".lease MINVALUE 0 START 0;
CREATE SEQUENCE "cdc".gap_logged MINVALUE 0 START 0;
CREATE SEQUENCE "cdc".mended MINVALUE 0 START 0;
DO $values$
BEGIN
    PERFORM setval('"cdc".mended'::regclass, 0), setval('"cdc".gap_logged'::regclass, 0), setval('"cdc".segment_bytes'::regclass, (1024 * 1024 * 1024) / 6), setval('"cdc".gate'::regclass, 0),
        setval('"cdc".lease'::regclass, 0);
END
$values$;
CREATE TABLE "cdc".forgotten (
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    by xid8 NOT NULL DEFAULT pg_current_xact_id(),
    seen pg_snapshot NOT NULL DEFAULT pg_current_snapshot(),
    segment int NOT NULL,
    oldest xid8,
    youngest xid8
);
CREATE TABLE "cdc".segment (
    number int PRIMARY KEY,
    storage oid NOT NULL
);
INSERT INTO "cdc".segment
SELECT number, pg_relation_filenode(format('"cdc".change_log_%s', number)::regclass) FROM generate_series(0, 7) AS number;
CREATE TABLE "cdc".errand (
    is_last boolean NOT NULL
);
CREATE TABLE "cdc".setting (
    name text PRIMARY KEY,
    value text NOT NULL
);
INSERT INTO "cdc".setting VALUES ('notify', 'auto');
CREATE TABLE "cdc".secret (
    key uuid[] NOT NULL
);
INSERT INTO "cdc".secret VALUES (ARRAY[gen_random_uuid(), gen_random_uuid(), gen_random_uuid()]);
CREATE UNLOGGED TABLE "cdc".generation (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    token uuid NOT NULL DEFAULT gen_random_uuid(),
    home text NOT NULL
);
DO $close$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT DISTINCT c.oid::regclass::text AS name, CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END AS grantee
        FROM pg_class c
        CROSS JOIN LATERAL aclexplode(c.relacl) AS acl
        LEFT JOIN pg_roles r ON r.oid = acl.grantee
        WHERE c.relnamespace = '"cdc"'::regnamespace AND acl.grantee <> c.relowner
          AND (c.relkind IN ('r', 'v') OR c.relname IN ('segment_bytes', 'closed', 'gate', 'lease', 'mended', 'gap_logged'))
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', given.name, given.grantee);
    END LOOP;
END
$close$;
CREATE OR REPLACE FUNCTION "cdc".advance_segment(number int) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $advance_segment$
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('cdc_bridge'), hashtext('"cdc".segment')) THEN
        RETURN false;
    END IF;
    IF number IS DISTINCT FROM "cdc".current_segment() THEN
        RAISE object_not_in_prerequisite_state;
    END IF;
    IF pg_relation_size(format('"cdc".change_log_%s', (number + 1) % 8)::regclass) > 0 THEN
        RAISE object_not_in_prerequisite_state;
    END IF;
    PERFORM "cdc".write_to_segment((number + 1) % 8);
    PERFORM setval('"cdc".closed'::regclass, 1, false);
    RETURN true;
EXCEPTION WHEN object_not_in_prerequisite_state THEN
    RETURN false;  -- without the lock
END
$advance_segment$;
REVOKE ALL ON FUNCTION "cdc".advance_segment(int) FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".begin_era(OUT token text, OUT seal_key text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '200ms'
AS $begin_era$
DECLARE
    here CONSTANT text := "cdc".home();
BEGIN
    IF NOT EXISTS (SELECT FROM "cdc".setting WHERE name = 'home' AND value = here) THEN
        PERFORM pg_advisory_xact_lock(hashtext('cdc_bridge'), hashtext('"cdc".home'));
        IF EXISTS (SELECT FROM "cdc".setting WHERE name = 'home' AND value <> here) THEN
            FOR number IN 0..7 LOOP
                EXECUTE format('TRUNCATE "cdc".change_log_%s', number);
                PERFORM "cdc".note_storage(number);
            END LOOP;
            PERFORM setval('"cdc".closed'::regclass, 1, false);
            DELETE FROM "cdc".forgotten;
            DELETE FROM "cdc".generation;
        END IF;
        INSERT INTO "cdc".setting VALUES ('home', here) ON CONFLICT (name) DO UPDATE SET value = here;
    END IF;
    INSERT INTO "cdc".generation (home) VALUES (here) ON CONFLICT (is_only) DO NOTHING;
    SELECT g.token::text INTO token FROM "cdc".generation g;
    SELECT array_to_string(s.key, '') INTO seal_key FROM "cdc".secret s;
END
$begin_era$;
REVOKE ALL ON FUNCTION "cdc".begin_era() FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".capture() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET client_min_messages = error
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
SET IntervalStyle = 'iso_8601'
SET bytea_output = 'hex'
SET extra_float_digits = 1
SET quote_all_identifiers = off
SET lc_monetary FROM CURRENT
AS $capture$
DECLARE
    columns text;
    news refcursor;
    olds refcursor;
    item text;
    old_item text;
    batch text[] := '{}';
    batch_bytes int := 0;
    sent int;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        sent := "cdc".send('T', TG_RELID, '');
        RETURN NULL;
    END IF;
    IF TG_NARGS > 0 THEN
        columns := "cdc".visible_columns(TG_RELID, TG_ARGV);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        IF columns IS NULL THEN
            OPEN news FOR SELECT row_to_json(r.*)::text FROM new_rows r;
        ELSE
            OPEN news FOR EXECUTE format('SELECT row_to_json(v.*)::text FROM (SELECT %s FROM new_rows r) v', columns);
        END IF;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        IF columns IS NULL THEN
            OPEN olds FOR SELECT row_to_json(r.*)::text FROM old_rows r;
        ELSE
            OPEN olds FOR EXECUTE format('SELECT row_to_json(v.*)::text FROM (SELECT %s FROM old_rows r) v', columns);
        END IF;
    END IF;
    LOOP
        IF TG_OP = 'DELETE' THEN
            FETCH olds INTO item;
        ELSE
            FETCH news INTO item;
        END IF;
        EXIT WHEN NOT FOUND;
        IF TG_OP = 'UPDATE' THEN
            FETCH olds INTO old_item;
            IF NOT FOUND THEN
                RAISE EXCEPTION 'cdc_bridge: fewer old rows than new ones';
            END IF;
            item := old_item || ',' || item;
        END IF;
        IF batch_bytes > 0 AND (cardinality(batch) = 1000 OR batch_bytes + octet_length(item) > 1048576) THEN
            sent := "cdc".send(left(TG_OP, 1), TG_RELID, '[' || array_to_string(batch, ',') || ']');
            batch := '{}';
            batch_bytes := 0;
        END IF;
        batch := array_append(batch, item);
        batch_bytes := batch_bytes + octet_length(item);
    END LOOP;
    IF TG_OP = 'UPDATE' THEN
        FETCH olds INTO old_item;
        IF FOUND THEN
            RAISE EXCEPTION 'cdc_bridge: fewer new rows than old ones';
        END IF;
    END IF;
    IF news IS NOT NULL THEN
        CLOSE news;
    END IF;
    IF olds IS NOT NULL THEN
        CLOSE olds;
    END IF;
    IF batch_bytes > 0 THEN
        sent := "cdc".send(left(TG_OP, 1), TG_RELID, '[' || array_to_string(batch, ',') || ']');
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    BEGIN
        PERFORM nextval('"cdc".gap'::regclass);
    EXCEPTION WHEN OTHERS THEN
        NULL;
    END;
    RETURN NULL;
END
$capture$;
REVOKE ALL ON FUNCTION "cdc".capture() FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".capture_durable() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
SET IntervalStyle = 'iso_8601'
SET bytea_output = 'hex'
SET extra_float_digits = 1
SET quote_all_identifiers = off
SET lc_monetary FROM CURRENT
AS $capture_durable$
DECLARE
    old_batch text[];
    new_batch text[];
    batch_bytes int := 0;
    old_item text;
    new_item text;
    olds refcursor;
    news refcursor;
    columns text;
    done boolean;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        done := "cdc".record('T', TG_RELID, NULL, NULL);
        RETURN NULL;
    END IF;
    BEGIN
        IF TG_NARGS > 0 THEN
            columns := "cdc".visible_columns(TG_RELID, TG_ARGV);
        END IF;
        IF TG_OP <> 'DELETE' THEN
            new_batch := '{}';
            IF columns IS NULL THEN
                OPEN news FOR SELECT row_to_json(r.*)::text FROM new_rows r;
            ELSE
                OPEN news FOR EXECUTE format('SELECT row_to_json(v.*)::text FROM (SELECT %s FROM new_rows r) v', columns);
            END IF;
        END IF;
        IF TG_OP <> 'INSERT' THEN
            old_batch := '{}';
            IF columns IS NULL THEN
                OPEN olds FOR SELECT row_to_json(r.*)::text FROM old_rows r;
            ELSE
                OPEN olds FOR EXECUTE format('SELECT row_to_json(v.*)::text FROM (SELECT %s FROM old_rows r) v', columns);
            END IF;
        END IF;
        LOOP
            IF news IS NOT NULL THEN
                FETCH news INTO new_item;
            END IF;
            IF olds IS NOT NULL THEN
                FETCH olds INTO old_item;
            END IF;
            IF batch_bytes > 1048576 THEN
                done := "cdc".record_batch(left(TG_OP, 1), TG_RELID, old_batch, new_batch);
                old_batch := CASE WHEN olds IS NOT NULL THEN '{}' END;
                new_batch := CASE WHEN news IS NOT NULL THEN '{}' END;
                batch_bytes := 0;
            END IF;
            EXIT WHEN new_item IS NULL AND old_item IS NULL;
            IF news IS NOT NULL THEN
                new_batch := array_append(new_batch, new_item);
            END IF;
            IF olds IS NOT NULL THEN
                old_batch := array_append(old_batch, old_item);
            END IF;
            batch_bytes := batch_bytes + 1048 + octet_length(concat(old_item, new_item));
        END LOOP;
        IF olds IS NOT NULL THEN
            CLOSE olds;
        END IF;
        IF news IS NOT NULL THEN
            CLOSE news;
        END IF;
    EXCEPTION WHEN serialization_failure THEN
        RAISE;
    WHEN OTHERS THEN
        done := "cdc".mark_gap();
        RETURN NULL;
    END;
    IF batch_bytes > 0 THEN
        IF to_regproc('"cdc".record_batch') IS NULL OR to_regproc('"cdc".record') IS NULL
                OR TG_OP = 'UPDATE' AND (array_position(old_batch, NULL) > 0 OR array_position(new_batch, NULL) > 0) THEN
            done := "cdc".mark_gap();
        ELSE
            done := "cdc".record_batch(left(TG_OP, 1), TG_RELID, old_batch, new_batch);
        END IF;
    END IF;
    RETURN NULL;
END
$capture_durable$;
REVOKE ALL ON FUNCTION "cdc".capture_durable() FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".capture_durable_row() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
SET IntervalStyle = 'iso_8601'
SET bytea_output = 'hex'
SET extra_float_digits = 1
SET quote_all_identifiers = off
SET lc_monetary FROM CURRENT
AS $capture_durable_row$
DECLARE
    rendering text;
    old_text text;
    new_text text;
    done boolean;
BEGIN
    BEGIN
        IF TG_NARGS > 0 THEN
            rendering := format('SELECT row_to_json(v.*)::text FROM (SELECT %s FROM (SELECT ($1).*) r) v',
                "cdc".visible_columns(TG_RELID, TG_ARGV));
            IF TG_OP <> 'INSERT' THEN
                EXECUTE rendering INTO STRICT old_text USING OLD;
            END IF;
            IF TG_OP <> 'DELETE' THEN
                EXECUTE rendering INTO STRICT new_text USING NEW;
            END IF;
        ELSE
            IF TG_OP <> 'INSERT' THEN
                old_text := row_to_json(OLD)::text;
            END IF;
            IF TG_OP <> 'DELETE' THEN
                new_text := row_to_json(NEW)::text;
            END IF;
        END IF;
    EXCEPTION WHEN serialization_failure THEN
        RAISE;
    WHEN OTHERS THEN
        done := "cdc".mark_gap();
        RETURN NULL;
    END;
    IF to_regproc('"cdc".record') IS NULL THEN
        done := "cdc".mark_gap();
        RETURN NULL;
    END IF;
    done := "cdc".record(left(TG_OP, 1), TG_RELID, old_text, new_text);
    RETURN NULL;
END
$capture_durable_row$;
REVOKE ALL ON FUNCTION "cdc".capture_durable_row() FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".capture_row() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET client_min_messages = error
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
SET IntervalStyle = 'iso_8601'
SET bytea_output = 'hex'
SET extra_float_digits = 1
SET quote_all_identifiers = off
SET lc_monetary FROM CURRENT
AS $capture_row$
DECLARE
    rendering text;
    old_item text;
    new_item text;
    sent int;
BEGIN
    IF TG_NARGS > 0 THEN
        rendering := format('SELECT row_to_json(v.*)::text FROM (SELECT %s FROM (SELECT ($1).*) r) v',
            "cdc".visible_columns(TG_RELID, TG_ARGV));
        IF TG_OP <> 'INSERT' THEN
            EXECUTE rendering INTO STRICT old_item USING OLD;
        END IF;
        IF TG_OP <> 'DELETE' THEN
            EXECUTE rendering INTO STRICT new_item USING NEW;
        END IF;
    ELSE
        IF TG_OP <> 'INSERT' THEN
            old_item := row_to_json(OLD)::text;
        END IF;
        IF TG_OP <> 'DELETE' THEN
            new_item := row_to_json(NEW)::text;
        END IF;
    END IF;
    sent := "cdc".send(left(TG_OP, 1), TG_RELID, '[' || concat_ws(',', old_item, new_item) || ']');
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    BEGIN
        PERFORM nextval('"cdc".gap'::regclass);
    EXCEPTION WHEN OTHERS THEN
        NULL;
    END;
    RETURN NULL;
END
$capture_row$;
REVOKE ALL ON FUNCTION "cdc".capture_row() FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".changed_segments() RETURNS SETOF int
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $changed_segments$
    SELECT s.number
    FROM "cdc".segment s
    LEFT JOIN pg_class c ON c.relnamespace = '"cdc"'::regnamespace AND c.relkind = 'r' AND c.relname = 'change_log_' || s.number
    WHERE s.storage <> coalesce(c.relfilenode, 0)
$changed_segments$;
REVOKE ALL ON FUNCTION "cdc".changed_segments() FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".forget_segment(number int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $forget_segment$
DECLARE
    segment CONSTANT text := format('"cdc".change_log_%s', number);
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'cdc_bridge: the log is emptied in READ COMMITTED only';
    END IF;
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', segment);
    EXECUTE format('INSERT INTO "cdc".forgotten (segment, oldest, youngest)
        SELECT %1$s, l.xid, (SELECT y.xid FROM %2$s y ORDER BY y.xid DESC LIMIT 1) FROM %2$s l ORDER BY l.xid LIMIT 1', number, segment);
    INSERT INTO "cdc".forgotten (segment) SELECT changed FROM "cdc".changed_segments() AS changed WHERE changed = number;
    EXECUTE format('TRUNCATE %s', segment);
    PERFORM "cdc".note_storage(number);
END
$forget_segment$;
REVOKE ALL ON FUNCTION "cdc".forget_segment(int) FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".home() RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $home$
DECLARE
    system text := '';
BEGIN
    IF has_function_privilege('pg_control_system()', 'EXECUTE') THEN
        SELECT system_identifier::text INTO system FROM pg_control_system();
    END IF;
    RETURN concat_ws(' ', system, (SELECT oid FROM pg_database WHERE datname = current_database()),
        '"cdc".setting'::regclass::oid, '"cdc".generation'::regclass::oid);
END
$home$;
REVOKE ALL ON FUNCTION "cdc".home() FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".make_room(number int) RETURNS boolean
LANGUAGE plpgsql
AS $make_room$
DECLARE
    segment_bytes CONSTANT bigint := pg_sequence_last_value('"cdc".segment_bytes'::regclass);
    size_bytes CONSTANT bigint := pg_total_relation_size(format('"cdc".change_log_%s', number)::regclass);
BEGIN
    IF size_bytes > 7 * segment_bytes THEN
        PERFORM setval('"cdc".closed'::regclass, 1);
        RETURN true;
    END IF;
    IF size_bytes <= 2 * segment_bytes OR ("cdc".current_segment() = number AND "cdc".advance_segment(number)) THEN
        RETURN size_bytes > 2 * segment_bytes;
    END IF;
    IF "cdc".current_segment() = number AND current_setting('transaction_isolation') = 'read committed'
            AND NOT EXISTS (SELECT FROM "cdc".setting WHERE name = 'notify' AND value = 'off') THEN
        INSERT INTO "cdc".errand (is_last) VALUES (false);
        DELETE FROM "cdc".errand;  -- what it has started goes on
    END IF;
    RETURN true;
END
$make_room$;
REVOKE ALL ON FUNCTION "cdc".make_room(int) FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".mark_gap() RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $mark_gap$
BEGIN
    PERFORM setval('"cdc".gap_logged'::regclass, nextval('"cdc".gap'::regclass));
    RETURN false;
EXCEPTION WHEN OTHERS THEN
    RETURN false;
END
$mark_gap$;
REVOKE ALL ON FUNCTION "cdc".mark_gap() FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".merge_forgotten() RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $merge_forgotten$
    WITH known AS (
        SELECT ctid AS place, seen, oldest IS NOT DISTINCT FROM '0'::xid8 AS is_merged,
            coalesce(youngest::text::int8, pg_snapshot_xmax(seen)::text::int8 - 1) AS youngest
        FROM "cdc".forgotten
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
        DELETE FROM "cdc".forgotten WHERE ctid IN (SELECT place FROM past) AND (SELECT count(*) FROM past) > 1
        RETURNING coalesce(youngest::text::int8, pg_snapshot_xmax(seen)::text::int8 - 1) AS youngest
    )
    INSERT INTO "cdc".forgotten (segment, oldest, youngest, seen)
    SELECT -1, '0', youngest::text::xid8, format('%s:%s:', youngest + 1, youngest + 1)::pg_snapshot
    FROM (SELECT max(youngest) AS youngest FROM gone) AS merged
    WHERE youngest IS NOT NULL
$merge_forgotten$;
REVOKE ALL ON FUNCTION "cdc".merge_forgotten() FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".note_segments() RETURNS SETOF int
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $note_segments$
DECLARE
    changed int;
BEGIN
    FOR changed IN SELECT s.number FROM "cdc".segment s FOR UPDATE SKIP LOCKED LOOP
        CONTINUE WHEN changed NOT IN (SELECT "cdc".changed_segments());
        INSERT INTO "cdc".forgotten (segment) VALUES (changed);
        PERFORM "cdc".note_storage(changed);
        RETURN NEXT changed;
    END LOOP;
END
$note_segments$;
REVOKE ALL ON FUNCTION "cdc".note_segments() FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".note_storage(which int) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $note_storage$
    UPDATE "cdc".segment SET storage = coalesce((SELECT c.relfilenode FROM pg_class c
        WHERE c.relnamespace = '"cdc"'::regnamespace AND c.relkind = 'r' AND c.relname = 'change_log_' || which), 0)
    WHERE number = which
$note_storage$;
REVOKE ALL ON FUNCTION "cdc".note_storage(int) FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".open_gate(lease_s float8) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $open_gate$
BEGIN
    IF EXISTS (SELECT FROM "cdc".setting WHERE name = 'notify' AND value = 'off') THEN
        PERFORM "cdc".shut_gate();
        RETURN NULL;
    END IF;
    PERFORM setval('"cdc".lease'::regclass, ((date_part('epoch', clock_timestamp()) + lease_s) * 1000000)::bigint);
    WHILE pg_sequence_last_value('"cdc".gate'::regclass) & 1 = 0 LOOP
        PERFORM nextval('"cdc".gate'::regclass);
    END LOOP;
    RETURN pg_sequence_last_value('"cdc".gate'::regclass);
END
$open_gate$;
REVOKE ALL ON FUNCTION "cdc".open_gate(float8) FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".record_batch(operation text, relation oid, old_rows text[], new_rows text[]) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $record_batch$
BEGIN
    IF operation = 'U' AND (cardinality(old_rows) <> cardinality(new_rows) OR array_position(old_rows, NULL) > 0
            OR array_position(new_rows, NULL) > 0) THEN
        RAISE EXCEPTION 'cdc_bridge: old and new rows do not pair';
    END IF;
    RETURN "cdc".record(operation, relation,
        CASE WHEN operation <> 'I' THEN concat('[', array_to_string(old_rows, ','), ']') END,
        CASE WHEN operation <> 'D' THEN concat('[', array_to_string(new_rows, ','), ']') END);
END
$record_batch$;
REVOKE ALL ON FUNCTION "cdc".record_batch(text, oid, text[], text[]) FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".record_notify(decided text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $record_notify$
BEGIN
    IF decided IS NULL OR decided NOT IN ('auto', 'off') THEN
        RAISE EXCEPTION 'cdc_bridge: notify is auto or off';
    END IF;
    INSERT INTO "cdc".setting (name, value) VALUES ('notify', decided)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value;
    IF decided = 'off' THEN
        PERFORM "cdc".shut_gate();
    END IF;
END
$record_notify$;
REVOKE ALL ON FUNCTION "cdc".record_notify(text) FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".reserve(size_bytes int) RETURNS bigint
LANGUAGE plpgsql
AS $reserve$
DECLARE
    queue_bytes CONSTANT float8 := coalesce(current_setting('max_notify_queue_pages', true)::float8, 1048576) * 8192;
    allowed CONSTANT float8 := (0.5 - pg_notification_queue_usage()) * queue_bytes / 16;
    said CONSTANT text := current_setting('cdc_bridge.pending_bytes', true);
    pending CONSTANT bigint := (CASE WHEN said <> '' AND length(said) < 18 AND rtrim(said, '0123456789') = '' THEN said::bigint ELSE 0 END)
        + size_bytes + 128;
BEGIN
    IF pending > allowed THEN
        RAISE EXCEPTION 'cdc_bridge: no room for % bytes of notifications', pending;
    END IF;
    RETURN set_config('cdc_bridge.pending_bytes', pending::text, true);
END
$reserve$;
REVOKE ALL ON FUNCTION "cdc".reserve(int) FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".run_errand() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $run_errand$
DECLARE
    number int;
BEGIN
    IF NOT NEW.is_last THEN
        INSERT INTO "cdc".errand (is_last) VALUES (true);
        DELETE FROM "cdc".errand;
        RETURN NULL;
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashtext('cdc_bridge'), hashtext('"cdc".segment')) THEN
        RETURN NULL;
    END IF;
    number := "cdc".current_segment();
    IF pg_total_relation_size(format('"cdc".change_log_%s', number)::regclass)
            > 2 * pg_sequence_last_value('"cdc".segment_bytes'::regclass) THEN
        EXECUTE format('LOCK TABLE "cdc".change_log_%s IN ACCESS EXCLUSIVE MODE NOWAIT', (number + 1) % 8);
        PERFORM "cdc".forget_segment((number + 1) % 8);
        PERFORM "cdc".advance_segment(number);
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;  -- locked: see make_room()
END
$run_errand$;
REVOKE ALL ON FUNCTION "cdc".run_errand() FROM PUBLIC;
DO $make$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = '"cdc".errand'::regclass AND tgname = 'run_errand') THEN
        CREATE CONSTRAINT TRIGGER run_errand AFTER INSERT ON "cdc".errand DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION "cdc".run_errand();
        ALTER TABLE "cdc".errand ENABLE ALWAYS TRIGGER run_errand;
    END IF;
END
$make$;
CREATE OR REPLACE FUNCTION "cdc".send(operation text, relation oid, body text) RETURNS int
LANGUAGE plpgsql
AS $send$
DECLARE
    channel CONSTANT text := 'cdc_' || pg_sequence_last_value('"cdc".channel'::regclass)::text;
    head CONSTANT text := format('1 %s %s %s %s %s ', operation, nextval('"cdc".seq'::regclass), pg_current_xact_id(),
        relation, coalesce(pg_relation_filenode(relation), 0));
    part_bytes_max CONSTANT int := CASE WHEN getdatabaseencoding() = 'UTF8' THEN 7800 ELSE 3900 END;
    bytes bytea;
    from_byte int := 0;
    to_byte int;
    part int := 0;
    reserved_bytes CONSTANT bigint := "cdc".reserve(octet_length(body));
    sent text;
BEGIN
    IF octet_length(body) <= part_bytes_max THEN
        sent := pg_notify(channel, head || E'0 .\n' || body);
        RETURN 1;
    END IF;
    bytes := convert_to(body, 'UTF8');
    WHILE from_byte < length(bytes) LOOP
        to_byte := least(from_byte + part_bytes_max, length(bytes));
        WHILE to_byte < length(bytes) AND get_byte(bytes, to_byte) & 192 = 128 LOOP
            to_byte := to_byte - 1;
        END LOOP;
        sent := pg_notify(channel, head || part || CASE WHEN to_byte < length(bytes) THEN E' +\n' ELSE E' .\n' END
            || convert_from(substring(bytes FROM from_byte + 1 FOR to_byte - from_byte), 'UTF8'));
        from_byte := to_byte;
        part := part + 1;
    END LOOP;
    RETURN part;
END
$send$;
REVOKE ALL ON FUNCTION "cdc".send(text, oid, text) FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".shut_gate() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $shut_gate$
DECLARE
    was_open boolean := false;
BEGIN
    WHILE pg_sequence_last_value('"cdc".gate'::regclass) & 1 = 1 LOOP
        was_open := true;
        PERFORM nextval('"cdc".gate'::regclass);
    END LOOP;
    RETURN was_open;
EXCEPTION WHEN OTHERS THEN
    RETURN false;
END
$shut_gate$;
REVOKE ALL ON FUNCTION "cdc".shut_gate() FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".standby_era(OUT token text, OUT seal_key text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $standby_era$
DECLARE
    checkpointed int;
    recovered int;
BEGIN
    IF has_function_privilege('pg_control_checkpoint()', 'EXECUTE') THEN
        SELECT timeline_id INTO checkpointed FROM pg_control_checkpoint();
    END IF;
    IF has_function_privilege('pg_control_recovery()', 'EXECUTE') THEN
        SELECT min_recovery_end_timeline INTO recovered FROM pg_control_recovery();
    END IF;
    SELECT md5(concat_ws(' ', "cdc".home(), s.key::text, greatest(checkpointed, recovered)))::uuid::text, array_to_string(s.key, '')
    INTO token, seal_key
    FROM "cdc".secret s;
END
$standby_era$;
REVOKE ALL ON FUNCTION "cdc".standby_era() FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".tell(operation text, relation oid, seq pg_lsn, old_text text, new_text text, segment int) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = error
AS $tell$
DECLARE
    channel text;
    rows_bytes_max CONSTANT int := CASE WHEN getdatabaseencoding() = 'UTF8' THEN 7800 ELSE 3900 END;
    said text;
    pending bigint;
    gate bigint;
    is_open boolean;
    body text := '';
    done boolean;
BEGIN
    channel := 'cdc_' || pg_sequence_last_value('"cdc".channel'::regclass)::text;
    gate := pg_sequence_last_value('"cdc".gate'::regclass);
    is_open := gate & 1 = 1;
    IF random() < 0.3 OR NOT is_open OR octet_length(concat(old_text, new_text)) > 100000 THEN
        PERFORM set_config('cdc_bridge.hold', segment::text, true);
        done := "cdc".make_room(segment);
        IF is_open AND date_part('epoch', clock_timestamp()) * 1000000 > pg_sequence_last_value('"cdc".lease'::regclass) THEN
            done := "cdc".shut_gate();
            is_open := false;
        END IF;
    END IF;
    IF NOT is_open THEN
        RETURN false;
    END IF;
    said := current_setting('cdc_bridge.pending_bytes', true);
    pending := (CASE WHEN said <> '' AND length(said) < 18 AND rtrim(said, '0123456789') = '' THEN said::bigint ELSE 0 END) + 8000;
    IF pending > 8000000 OR pg_notification_queue_usage() > 0.5 THEN
        PERFORM pg_notify(channel, format(E'2 S %s\n', seq));
        done := "cdc".shut_gate();
        RETURN false;
    END IF;
    PERFORM set_config('cdc_bridge.pending_bytes', pending::text, true);
    IF operation = 'T' OR coalesce(old_text, new_text) IS NOT NULL THEN
        body := concat('[', CASE WHEN starts_with(old_text, '{') THEN '[' || old_text || ']' ELSE coalesce(old_text, '[]') END, ',',
            CASE WHEN starts_with(new_text, '{') THEN '[' || new_text || ']' ELSE coalesce(new_text, '[]') END, ']');
    END IF;
    IF octet_length(body) > rows_bytes_max THEN
        body := '';
    END IF;
    PERFORM pg_notify(channel, format(E'2 %s %s %s %s %s %s %s\n', operation, seq, pg_current_xact_id(), relation,
        coalesce(pg_relation_filenode(relation), 0), (date_part('epoch', clock_timestamp()) * 1000000)::bigint, gate) || body);
    RETURN true;
EXCEPTION WHEN OTHERS THEN
    done := "cdc".shut_gate();
    RETURN false;
END
$tell$;
REVOKE ALL ON FUNCTION "cdc".tell(text, oid, pg_lsn, text, text, int) FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".version() RETURNS int
LANGUAGE sql IMMUTABLE
AS $version$ SELECT 3 $version$;
REVOKE ALL ON FUNCTION "cdc".version() FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".visible_columns(relation oid, excluded text[]) RETURNS text
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
REVOKE ALL ON FUNCTION "cdc".visible_columns(oid, text[]) FROM PUBLIC;
CREATE OR REPLACE FUNCTION "cdc".write_to_segment(number int) RETURNS void
LANGUAGE plpgsql
AS $write_to_segment$
DECLARE
    one_sided CONSTANT text := $create$
CREATE OR REPLACE FUNCTION "cdc".capture_durable_%1$s() RETURNS pg_catalog.trigger
LANGUAGE plpgsql SECURITY DEFINER
AS $capture$
#variable_conflict use_variable
DECLARE
    seq CONSTANT pg_catalog.pg_lsn := pg_catalog.pg_current_wal_insert_lsn();
    written pg_catalog.int8;
    item pg_catalog.text;
    batch pg_catalog.text[];
    batch_bytes pg_catalog.int8;
    is_large pg_catalog.bool;
    done pg_catalog.bool;
BEGIN
    IF pg_catalog.current_setting('cdc_bridge.hold', true) OPERATOR(pg_catalog.=) '%2$s' THEN
        INSERT INTO "cdc".change_log_%2$s (seq, xid, at, relation, filenode, operation, %4$s)
        SELECT seq, pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(), TG_RELID,
            COALESCE(pg_catalog.pg_relation_filenode(TG_RELID), 0), '%5$s', pg_catalog.row_to_json(r.*)
        FROM %3$s r
        WHERE (SELECT pg_catalog.pg_sequence_last_value('"cdc".closed'::pg_catalog.regclass)) IS NULL
            AND (pg_catalog.pg_column_size(r.*) OPERATOR(pg_catalog.<=) 8192 OR pg_catalog.set_config('cdc_bridge.hold', '', true) IS NULL)
        LIMIT 33;
        GET DIAGNOSTICS written = ROW_COUNT;
        IF NOT (written OPERATOR(pg_catalog.=) 33 OR written OPERATOR(pg_catalog.=) 0 OR pg_catalog.random() OPERATOR(pg_catalog.<) 0.0625
                OR pg_catalog.pg_sequence_last_value('"cdc".gate'::pg_catalog.regclass) OPERATOR(pg_catalog.&) 1 OPERATOR(pg_catalog.=) 1
                OR pg_catalog.current_setting('cdc_bridge.hold', true) OPERATOR(pg_catalog.<>) '%2$s') THEN
            RETURN NULL;
        END IF;
        is_large := pg_catalog.current_setting('cdc_bridge.hold', true) OPERATOR(pg_catalog.<>) '%2$s';
    ELSE
        BEGIN
            INSERT INTO "cdc".change_log_%2$s (seq, xid, at, relation, filenode, operation, %4$s)
            SELECT seq, pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(), TG_RELID,
                COALESCE(pg_catalog.pg_relation_filenode(TG_RELID), 0), '%5$s', pg_catalog.row_to_json(r.*)
            FROM %3$s r
            WHERE (SELECT pg_catalog.pg_sequence_last_value('"cdc".closed'::pg_catalog.regclass)) IS NULL
            LIMIT 33;
            GET DIAGNOSTICS written = ROW_COUNT;
            IF NOT (written OPERATOR(pg_catalog.=) 33 OR written OPERATOR(pg_catalog.=) 0 OR pg_catalog.random() OPERATOR(pg_catalog.<) 0.0625
                    OR pg_catalog.pg_sequence_last_value('"cdc".gate'::pg_catalog.regclass) OPERATOR(pg_catalog.&) 1 OPERATOR(pg_catalog.=) 1) THEN
                RETURN NULL;
            END IF;
        EXCEPTION WHEN serialization_failure THEN
            RAISE;
        WHEN OTHERS THEN
            done := "cdc".mark_gap();
            RETURN NULL;
        END;
    END IF;
    BEGIN
        IF written OPERATOR(pg_catalog.=) 0 AND is_large IS NOT TRUE THEN
            IF EXISTS (SELECT FROM %3$s) THEN
                done := "cdc".mark_gap();
            END IF;
            RETURN NULL;
        END IF;
        IF written OPERATOR(pg_catalog.<) 33 AND is_large IS NOT TRUE THEN
            SELECT pg_catalog.concat('[', pg_catalog.string_agg(pg_catalog.row_to_json(r.*)::pg_catalog.text, ','), ']')
            FROM %3$s r INTO item;
            done := "cdc".tell('%5$s', TG_RELID, seq, %6$s, %7$s, %2$s);
            RETURN NULL;
        END IF;
        done := "cdc".tell('%5$s', TG_RELID, seq, NULL, NULL, %2$s);
        batch := '{}';
        batch_bytes := 0;
        FOR item IN
            (SELECT pg_catalog.row_to_json(r.*)::pg_catalog.text FROM %3$s r
            WHERE is_large IS NOT TRUE OR pg_catalog.pg_column_size(r.*) OPERATOR(pg_catalog.<=) 8192 OFFSET 33)
            UNION ALL
            SELECT pg_catalog.row_to_json(r.*)::pg_catalog.text FROM %3$s r
            WHERE is_large IS TRUE AND pg_catalog.pg_column_size(r.*) OPERATOR(pg_catalog.>) 8192
        LOOP
            IF batch_bytes OPERATOR(pg_catalog.>) 1048576 THEN
                done := "cdc".record_batch('%5$s', TG_RELID, %8$s);
                batch := '{}';
                batch_bytes := 0;
            END IF;
            batch := pg_catalog.array_append(batch, item);
            batch_bytes := batch_bytes OPERATOR(pg_catalog.+) 1048 OPERATOR(pg_catalog.+) pg_catalog.octet_length(item);
        END LOOP;
        IF batch_bytes OPERATOR(pg_catalog.>) 0 THEN
            done := "cdc".record_batch('%5$s', TG_RELID, %8$s);
        END IF;
    EXCEPTION WHEN serialization_failure THEN
        RAISE;
    WHEN OTHERS THEN
        done := "cdc".mark_gap();
    END;
    RETURN NULL;
END
$capture$
$create$;
    two_sided CONSTANT text := $create$
CREATE OR REPLACE FUNCTION "cdc".capture_durable_update() RETURNS pg_catalog.trigger
LANGUAGE plpgsql SECURITY DEFINER
AS $capture$
#variable_conflict use_variable
DECLARE
    seq CONSTANT pg_catalog.pg_lsn := pg_catalog.pg_current_wal_insert_lsn();
    written pg_catalog.int8;
    old_item pg_catalog.text;
    new_item pg_catalog.text;
    olds pg_catalog.refcursor;
    old_batch pg_catalog.text[];
    new_batch pg_catalog.text[];
    batch_bytes pg_catalog.int8;
    done pg_catalog.bool;
BEGIN
    IF pg_catalog.current_setting('cdc_bridge.hold', true) OPERATOR(pg_catalog.=) '%1$s' THEN
        INSERT INTO "cdc".change_log_%1$s (seq, xid, at, relation, filenode, operation, old, new)
        SELECT seq, pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(), TG_RELID,
            COALESCE(pg_catalog.pg_relation_filenode(TG_RELID), 0), 'U', pg_catalog.concat('[', o.items, ']'), pg_catalog.concat('[', n.items, ']')
        FROM (SELECT pg_catalog.string_agg(item, ',') AS items, pg_catalog.sum(CASE WHEN item IS NULL THEN 33 ELSE 1 END) AS count
            FROM (SELECT CASE WHEN pg_catalog.pg_column_size(r.*) OPERATOR(pg_catalog.<=) 8192
                THEN pg_catalog.row_to_json(r.*)::pg_catalog.text END AS item FROM old_rows r LIMIT 33) f) o,
            (SELECT pg_catalog.string_agg(item, ',') AS items, pg_catalog.sum(CASE WHEN item IS NULL THEN 33 ELSE 1 END) AS count
            FROM (SELECT CASE WHEN pg_catalog.pg_column_size(r.*) OPERATOR(pg_catalog.<=) 8192
                THEN pg_catalog.row_to_json(r.*)::pg_catalog.text END AS item FROM new_rows r LIMIT 33) f) n
        WHERE o.count OPERATOR(pg_catalog.=) n.count AND n.count OPERATOR(pg_catalog.<) 33 AND n.count OPERATOR(pg_catalog.>) 0
            AND (SELECT pg_catalog.pg_sequence_last_value('"cdc".closed'::pg_catalog.regclass)) IS NULL;
        GET DIAGNOSTICS written = ROW_COUNT;
        IF NOT (written OPERATOR(pg_catalog.=) 0 OR pg_catalog.random() OPERATOR(pg_catalog.<) 0.0625
                OR pg_catalog.pg_sequence_last_value('"cdc".gate'::pg_catalog.regclass) OPERATOR(pg_catalog.&) 1 OPERATOR(pg_catalog.=) 1) THEN
            RETURN NULL;
        END IF;
    ELSE
        BEGIN
            INSERT INTO "cdc".change_log_%1$s (seq, xid, at, relation, filenode, operation, old, new)
            SELECT seq, pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(), TG_RELID,
                COALESCE(pg_catalog.pg_relation_filenode(TG_RELID), 0), 'U', pg_catalog.concat('[', o.items, ']'), pg_catalog.concat('[', n.items, ']')
            FROM (SELECT pg_catalog.string_agg(item, ',') AS items, pg_catalog.count(item) AS count
                FROM (SELECT pg_catalog.row_to_json(r.*)::pg_catalog.text AS item FROM old_rows r LIMIT 33) f) o,
                (SELECT pg_catalog.string_agg(item, ',') AS items, pg_catalog.count(item) AS count
                FROM (SELECT pg_catalog.row_to_json(r.*)::pg_catalog.text AS item FROM new_rows r LIMIT 33) f) n
            WHERE o.count OPERATOR(pg_catalog.=) n.count AND n.count OPERATOR(pg_catalog.<) 33 AND n.count OPERATOR(pg_catalog.>) 0
            AND (SELECT pg_catalog.pg_sequence_last_value('"cdc".closed'::pg_catalog.regclass)) IS NULL;
            GET DIAGNOSTICS written = ROW_COUNT;
            IF NOT (written OPERATOR(pg_catalog.=) 0 OR pg_catalog.random() OPERATOR(pg_catalog.<) 0.0625
                    OR pg_catalog.pg_sequence_last_value('"cdc".gate'::pg_catalog.regclass) OPERATOR(pg_catalog.&) 1 OPERATOR(pg_catalog.=) 1) THEN
                RETURN NULL;
            END IF;
        EXCEPTION WHEN serialization_failure THEN
            RAISE;
        WHEN OTHERS THEN
            done := "cdc".mark_gap();
            RETURN NULL;
        END;
    END IF;
    BEGIN
        IF written OPERATOR(pg_catalog.=) 1 THEN
            SELECT pg_catalog.concat('[', pg_catalog.string_agg(pg_catalog.row_to_json(r.*)::pg_catalog.text, ','), ']')
            FROM old_rows r INTO old_item;
            SELECT pg_catalog.concat('[', pg_catalog.string_agg(pg_catalog.row_to_json(r.*)::pg_catalog.text, ','), ']')
            FROM new_rows r INTO new_item;
            done := "cdc".tell('U', TG_RELID, seq, old_item, new_item, %1$s);
            RETURN NULL;
        END IF;
        old_batch := '{}';
        new_batch := '{}';
        batch_bytes := 0;
        OPEN olds FOR SELECT pg_catalog.row_to_json(r.*)::pg_catalog.text FROM old_rows r;
        FOR new_item IN SELECT pg_catalog.row_to_json(r.*)::pg_catalog.text FROM new_rows r LOOP
            IF batch_bytes OPERATOR(pg_catalog.>) 1048576 THEN
                done := "cdc".record_batch('U', TG_RELID, old_batch, new_batch);
                old_batch := '{}';
                new_batch := '{}';
                batch_bytes := 0;
            END IF;
            FETCH olds INTO old_item;
            old_batch := pg_catalog.array_append(old_batch, old_item);
            new_batch := pg_catalog.array_append(new_batch, new_item);
            batch_bytes := batch_bytes OPERATOR(pg_catalog.+) 1048
                OPERATOR(pg_catalog.+) pg_catalog.octet_length(pg_catalog.concat(old_item, new_item));
        END LOOP;
        FETCH olds INTO old_item;
        IF FOUND THEN
            RAISE EXCEPTION 'cdc_bridge: fewer new rows than old ones';
        END IF;
        CLOSE olds;
        IF batch_bytes OPERATOR(pg_catalog.>) 0 THEN
            done := "cdc".record_batch('U', TG_RELID, old_batch, new_batch);
        END IF;
    EXCEPTION WHEN serialization_failure THEN
        RAISE;
    WHEN OTHERS THEN
        done := "cdc".mark_gap();
    END;
    RETURN NULL;
END
$capture$
$create$;
    record CONSTANT text := $create$
CREATE OR REPLACE FUNCTION "cdc".record(operation pg_catalog.text, relation pg_catalog.oid, old_text pg_catalog.text, new_text pg_catalog.text)
RETURNS pg_catalog.bool
LANGUAGE plpgsql
AS $record$
#variable_conflict use_variable
DECLARE
    seq CONSTANT pg_catalog.pg_lsn := pg_catalog.pg_current_wal_insert_lsn();
    written pg_catalog.int8;
    done pg_catalog.bool;
BEGIN
    IF pg_catalog.current_setting('cdc_bridge.hold', true) OPERATOR(pg_catalog.=) '%1$s'
            AND COALESCE(pg_catalog.octet_length(old_text), 0) OPERATOR(pg_catalog.+) COALESCE(pg_catalog.octet_length(new_text), 0) OPERATOR(pg_catalog.<) 100000000 THEN
        INSERT INTO "cdc".change_log_%1$s
        SELECT seq, pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(), relation,
            COALESCE(pg_catalog.pg_relation_filenode(relation), 0), operation::pg_catalog."char", old_text, new_text
        WHERE (SELECT pg_catalog.pg_sequence_last_value('"cdc".closed'::pg_catalog.regclass)) IS NULL;
        GET DIAGNOSTICS written = ROW_COUNT;
        IF NOT (written OPERATOR(pg_catalog.=) 0 OR pg_catalog.octet_length(pg_catalog.concat(old_text, new_text)) OPERATOR(pg_catalog.>) 100000
                OR pg_catalog.random() OPERATOR(pg_catalog.<) 0.0625 OR pg_catalog.pg_sequence_last_value('"cdc".gate'::pg_catalog.regclass) OPERATOR(pg_catalog.&) 1 OPERATOR(pg_catalog.=) 1) THEN
            RETURN true;
        END IF;
    ELSE
        BEGIN
            INSERT INTO "cdc".change_log_%1$s
            SELECT seq, pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(), relation,
                COALESCE(pg_catalog.pg_relation_filenode(relation), 0), operation::pg_catalog."char", old_text, new_text
            WHERE (SELECT pg_catalog.pg_sequence_last_value('"cdc".closed'::pg_catalog.regclass)) IS NULL;
            GET DIAGNOSTICS written = ROW_COUNT;
            IF NOT (written OPERATOR(pg_catalog.=) 0 OR pg_catalog.octet_length(pg_catalog.concat(old_text, new_text)) OPERATOR(pg_catalog.>) 100000
                    OR pg_catalog.random() OPERATOR(pg_catalog.<) 0.0625 OR pg_catalog.pg_sequence_last_value('"cdc".gate'::pg_catalog.regclass) OPERATOR(pg_catalog.&) 1 OPERATOR(pg_catalog.=) 1) THEN
                RETURN true;
            END IF;
        EXCEPTION WHEN serialization_failure THEN
            RAISE;
        WHEN OTHERS THEN
            RETURN "cdc".mark_gap();
        END;
    END IF;
    IF written OPERATOR(pg_catalog.=) 0 THEN
        RETURN "cdc".mark_gap();
    END IF;
    BEGIN
        done := "cdc".tell(operation, relation, seq, old_text, new_text, %1$s);
    EXCEPTION WHEN serialization_failure THEN
        RAISE;
    WHEN OTHERS THEN
        done := "cdc".mark_gap();
    END;
    RETURN true;
END
$record$
$create$;
BEGIN
    EXECUTE format(one_sided, 'insert', number, 'new_rows', 'new', 'I', 'NULL', 'item', 'NULL, batch');
    EXECUTE format(one_sided, 'delete', number, 'old_rows', 'old', 'D', 'item', 'NULL', 'batch, NULL');
    EXECUTE format(two_sided, number);
    EXECUTE format(record, number);
    EXECUTE format('CREATE OR REPLACE FUNCTION "cdc".current_segment() RETURNS int LANGUAGE sql IMMUTABLE AS ''SELECT %s''',
        number);
    REVOKE ALL ON FUNCTION "cdc".current_segment(), "cdc".capture_durable_insert(), "cdc".capture_durable_update(), "cdc".capture_durable_delete(),
        "cdc".record(text, oid, text, text) FROM PUBLIC;
END
$write_to_segment$;
REVOKE ALL ON FUNCTION "cdc".write_to_segment(int) FROM PUBLIC;
DO $make$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('cdc_bridge'), hashtext('"cdc".segment'));
    IF to_regprocedure('"cdc".current_segment()') IS NULL THEN
        PERFORM "cdc".write_to_segment(0);
    ELSE
        PERFORM "cdc".write_to_segment("cdc".current_segment());
    END IF;
END
$make$;
DO $grant$
DECLARE
    given record;
BEGIN
    FOR given IN
        WITH runtime AS (
    SELECT r.oid, r.rolname, n.nspowner AS owner
    FROM pg_namespace n
    JOIN pg_roles r ON r.oid <> n.nspowner
    WHERE n.oid = to_regnamespace('"cdc"') AND (
        shobj_description(n.nspowner, 'pg_authid') = 'cdc_bridge: the runtime role is ' || r.rolname
        OR EXISTS (
            SELECT
            FROM pg_auth_members m
            JOIN pg_database d ON d.datname = current_database()
            CROSS JOIN aclexplode(d.datacl) AS acl
            WHERE m.roleid = r.oid AND m.member = n.nspowner AND m.grantor = n.nspowner
              AND to_jsonb(m) @> '{"admin_option": false, "inherit_option": false, "set_option": false}'
              AND acl.grantee = r.oid AND acl.privilege_type = 'CONNECT'))
)
,
        rights(kind, name, privilege) AS (
    VALUES
        ('SCHEMA', '', 'USAGE'),
        ('TABLE', 'change_log', 'SELECT'),  -- what changed
        ('TABLE', 'change_log_0', 'SELECT'), ('TABLE', 'change_log_1', 'SELECT'),  -- how large and how old each part of it is
        ('TABLE', 'change_log_2', 'SELECT'), ('TABLE', 'change_log_3', 'SELECT'),
        ('TABLE', 'change_log_4', 'SELECT'), ('TABLE', 'change_log_5', 'SELECT'),
        ('TABLE', 'change_log_6', 'SELECT'), ('TABLE', 'change_log_7', 'SELECT'),
        ('TABLE', 'forgotten', 'SELECT'),  -- what is no longer in it
        ('TABLE', 'setting', 'SELECT'),  -- whether writers notify at all
        ('SEQUENCE', 'channel', 'SELECT'),  -- where they do
        ('SEQUENCE', 'gate', 'SELECT'),  -- whether they do now
        ('SEQUENCE', 'lease', 'SELECT'),
        ('SEQUENCE', 'closed', 'SELECT'),
        ('SEQUENCE', 'gap', 'SELECT'),  -- whether one could not tell what changed
        ('SEQUENCE', 'gap_logged', 'SELECT'),
        ('SEQUENCE', 'mended', 'SELECT'), ('SEQUENCE', 'mended', 'UPDATE'),
        ('SEQUENCE', 'segment_bytes', 'SELECT'), ('SEQUENCE', 'segment_bytes', 'UPDATE'),  -- retention_bytes
        ('FUNCTION', 'version', 'EXECUTE'),
        ('FUNCTION', 'begin_era', 'EXECUTE'),  -- the life of the database, the key of cursors
        ('FUNCTION', 'standby_era', 'EXECUTE'),
        ('FUNCTION', 'open_gate', 'EXECUTE'),
        ('FUNCTION', 'shut_gate', 'EXECUTE'),
        ('FUNCTION', 'record_notify', 'EXECUTE'),  -- serve --notify
        ('FUNCTION', 'changed_segments', 'EXECUTE'),  -- what somebody has done to the log by hand
        ('FUNCTION', 'note_segments', 'EXECUTE'),
        ('FUNCTION', 'current_segment', 'EXECUTE'),  -- pruning
        ('FUNCTION', 'merge_forgotten', 'EXECUTE'),
        ('FUNCTION', 'forget_segment', 'EXECUTE'),
        ('FUNCTION', 'advance_segment', 'EXECUTE')
)
        SELECT rights.kind, rights.name, rights.privilege, runtime.rolname AS role
        FROM runtime CROSS JOIN rights
        WHERE pg_has_role(runtime.owner, 'USAGE')
    LOOP
        EXECUTE format('GRANT %s ON %s "cdc"%s TO %I', given.privilege, given.kind,
            CASE WHEN given.kind <> 'SCHEMA' THEN format('.%I', given.name) END, given.role);
    END LOOP;
END
$grant$;
COMMIT;
