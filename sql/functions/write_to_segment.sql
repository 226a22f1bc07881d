-- Makes the functions that write to the log write to this segment, 0 to 7. It makes them anew: a table's name that stands in a static statement costs nothing, and one that is looked up costs
-- every writer several microseconds. Replacing a function waits for nobody and makes nobody wait; who still runs the old text
-- writes to the old segment, which does no harm. The caller holds the lock that
-- advance_segment() takes. current_segment() is made with them, so that it says what is true in each transaction.
--
-- The functions:
--
-- - capture_durable_insert(), _update(), _delete(): triggers AFTER each statement, with transition tables, of tables that
--   exclude no column and of which no value reads differently under other settings of the session.
-- - record(): writes one change to the log, for all others and for what is more than a few rows.
--
-- What they may never do is fail the application's statement, so whatever goes wrong is caught and marked as a gap; but not that
-- the application's transaction cannot be serialised with others, which would only be said later, and nothing is missed. Who
-- writes inside of a block that catches is a subtransaction with an id of its own, and more than 64 of those in a
-- transaction slow down everybody. So once a transaction has written to a segment, and so holds a lock that keeps the
-- segment as it is, a transaction-local setting, `hold`, remembers that, and its next writes are not caught. That is done at
-- one write of sixteen, by chance: to do it costs more than a few ids do. What can fail all the same is a row that is too large as
-- JSON, more than 1 GB. That can be 1,500 times what is stored (compressed by 255, and each byte written as six), so rows
-- of more than 8 kB, even 32 of them, are rendered and written where it is caught.
--
-- Each expression of plpgsql is set up anew in each transaction, for more than it takes to evaluate it; a function's SET
-- costs more still. So there are as few as can be, and since search_path is the writer's, every name is qualified.
--
-- `seq` is where the WAL stood: who saw somebody's change has a larger one, and it takes no sequence. All rows with one
-- `seq` and transaction are one change. `old` and `new` are a row, or an array of rows, as JSON; they pair by position.
--
-- The gate is read where what fails is caught: a sequence that somebody has dropped or renamed is a gap too.
--
-- The transaction has its id before the gate is read. What a bridge concludes when it opens the gate rests on that.
CREATE OR REPLACE FUNCTION {cdc}.write_to_segment(number int) RETURNS void
LANGUAGE plpgsql
AS $write_to_segment$
DECLARE
    -- %1$s: insert or delete, %2$s: the segment, %3$s: the transition table, %4$s: the column of the log, %5$s: the operation.
    one_sided CONSTANT text := $create$
CREATE OR REPLACE FUNCTION {cdc}.capture_durable_%1$s() RETURNS pg_catalog.trigger
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
        INSERT INTO {cdc}.change_log_%2$s (seq, xid, at, relation, filenode, operation, %4$s)
        SELECT seq, pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(), TG_RELID,
            COALESCE(pg_catalog.pg_relation_filenode(TG_RELID), 0), '%5$s', pg_catalog.row_to_json(r.*)
        FROM %3$s r
        WHERE (SELECT pg_catalog.pg_sequence_last_value('{cdc}.closed'::pg_catalog.regclass)) IS NULL
            AND (pg_catalog.pg_column_size(r.*) OPERATOR(pg_catalog.<=) 8192 OR pg_catalog.set_config('cdc_bridge.hold', '', true) IS NULL)
        LIMIT 33;
        GET DIAGNOSTICS written = ROW_COUNT;
        IF NOT (written OPERATOR(pg_catalog.=) 33 OR written OPERATOR(pg_catalog.=) 0 OR pg_catalog.random() OPERATOR(pg_catalog.<) 0.0625
                OR pg_catalog.pg_sequence_last_value('{cdc}.gate'::pg_catalog.regclass) OPERATOR(pg_catalog.&) 1 OPERATOR(pg_catalog.=) 1
                OR pg_catalog.current_setting('cdc_bridge.hold', true) OPERATOR(pg_catalog.<>) '%2$s') THEN
            RETURN NULL;
        END IF;
        is_large := pg_catalog.current_setting('cdc_bridge.hold', true) OPERATOR(pg_catalog.<>) '%2$s';
    ELSE
        BEGIN
            INSERT INTO {cdc}.change_log_%2$s (seq, xid, at, relation, filenode, operation, %4$s)
            SELECT seq, pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(), TG_RELID,
                COALESCE(pg_catalog.pg_relation_filenode(TG_RELID), 0), '%5$s', pg_catalog.row_to_json(r.*)
            FROM %3$s r
            WHERE (SELECT pg_catalog.pg_sequence_last_value('{cdc}.closed'::pg_catalog.regclass)) IS NULL
            LIMIT 33;
            GET DIAGNOSTICS written = ROW_COUNT;
            IF NOT (written OPERATOR(pg_catalog.=) 33 OR written OPERATOR(pg_catalog.=) 0 OR pg_catalog.random() OPERATOR(pg_catalog.<) 0.0625
                    OR pg_catalog.pg_sequence_last_value('{cdc}.gate'::pg_catalog.regclass) OPERATOR(pg_catalog.&) 1 OPERATOR(pg_catalog.=) 1) THEN
                RETURN NULL;
            END IF;
        EXCEPTION WHEN serialization_failure THEN
            RAISE;
        WHEN OTHERS THEN
            done := {cdc}.mark_gap();
            RETURN NULL;
        END;
    END IF;
    BEGIN
        IF written OPERATOR(pg_catalog.=) 0 AND is_large IS NOT TRUE THEN
            -- The log is full, unless there was nothing to write.
            IF EXISTS (SELECT FROM %3$s) THEN
                done := {cdc}.mark_gap();
            END IF;
            RETURN NULL;
        END IF;
        IF written OPERATOR(pg_catalog.<) 33 AND is_large IS NOT TRUE THEN
            SELECT pg_catalog.concat('[', pg_catalog.string_agg(pg_catalog.row_to_json(r.*)::pg_catalog.text, ','), ']')
            FROM %3$s r INTO item;
            done := {cdc}.tell('%5$s', TG_RELID, seq, %6$s, %7$s, %2$s);
            RETURN NULL;
        END IF;
        -- First of these, so that nobody tells the others before them.
        done := {cdc}.tell('%5$s', TG_RELID, seq, NULL, NULL, %2$s);
        batch := '{{}}';
        batch_bytes := 0;
        FOR item IN
            (SELECT pg_catalog.row_to_json(r.*)::pg_catalog.text FROM %3$s r
            WHERE is_large IS NOT TRUE OR pg_catalog.pg_column_size(r.*) OPERATOR(pg_catalog.<=) 8192 OFFSET 33)
            UNION ALL
            SELECT pg_catalog.row_to_json(r.*)::pg_catalog.text FROM %3$s r
            WHERE is_large IS TRUE AND pg_catalog.pg_column_size(r.*) OPERATOR(pg_catalog.>) 8192
        LOOP
            IF batch_bytes OPERATOR(pg_catalog.>) 1048576 THEN
                done := {cdc}.record_batch('%5$s', TG_RELID, %8$s);
                batch := '{{}}';
                batch_bytes := 0;
            END IF;
            batch := pg_catalog.array_append(batch, item);
            batch_bytes := batch_bytes OPERATOR(pg_catalog.+) 1048 OPERATOR(pg_catalog.+) pg_catalog.octet_length(item);
        END LOOP;
        IF batch_bytes OPERATOR(pg_catalog.>) 0 THEN
            done := {cdc}.record_batch('%5$s', TG_RELID, %8$s);
        END IF;
    EXCEPTION WHEN serialization_failure THEN
        RAISE;
    WHEN OTHERS THEN
        done := {cdc}.mark_gap();
    END;
    RETURN NULL;
END
$capture$
$create$;
    -- %1$s: the segment.
    two_sided CONSTANT text := $create$
CREATE OR REPLACE FUNCTION {cdc}.capture_durable_update() RETURNS pg_catalog.trigger
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
        INSERT INTO {cdc}.change_log_%1$s (seq, xid, at, relation, filenode, operation, old, new)
        SELECT seq, pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(), TG_RELID,
            COALESCE(pg_catalog.pg_relation_filenode(TG_RELID), 0), 'U', pg_catalog.concat('[', o.items, ']'), pg_catalog.concat('[', n.items, ']')
        FROM (SELECT pg_catalog.string_agg(item, ',') AS items, pg_catalog.sum(CASE WHEN item IS NULL THEN 33 ELSE 1 END) AS count
            FROM (SELECT CASE WHEN pg_catalog.pg_column_size(r.*) OPERATOR(pg_catalog.<=) 8192
                THEN pg_catalog.row_to_json(r.*)::pg_catalog.text END AS item FROM old_rows r LIMIT 33) f) o,
            (SELECT pg_catalog.string_agg(item, ',') AS items, pg_catalog.sum(CASE WHEN item IS NULL THEN 33 ELSE 1 END) AS count
            FROM (SELECT CASE WHEN pg_catalog.pg_column_size(r.*) OPERATOR(pg_catalog.<=) 8192
                THEN pg_catalog.row_to_json(r.*)::pg_catalog.text END AS item FROM new_rows r LIMIT 33) f) n
        WHERE o.count OPERATOR(pg_catalog.=) n.count AND n.count OPERATOR(pg_catalog.<) 33 AND n.count OPERATOR(pg_catalog.>) 0
            AND (SELECT pg_catalog.pg_sequence_last_value('{cdc}.closed'::pg_catalog.regclass)) IS NULL;
        GET DIAGNOSTICS written = ROW_COUNT;
        IF NOT (written OPERATOR(pg_catalog.=) 0 OR pg_catalog.random() OPERATOR(pg_catalog.<) 0.0625
                OR pg_catalog.pg_sequence_last_value('{cdc}.gate'::pg_catalog.regclass) OPERATOR(pg_catalog.&) 1 OPERATOR(pg_catalog.=) 1) THEN
            RETURN NULL;
        END IF;
    ELSE
        BEGIN
            INSERT INTO {cdc}.change_log_%1$s (seq, xid, at, relation, filenode, operation, old, new)
            SELECT seq, pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(), TG_RELID,
                COALESCE(pg_catalog.pg_relation_filenode(TG_RELID), 0), 'U', pg_catalog.concat('[', o.items, ']'), pg_catalog.concat('[', n.items, ']')
            FROM (SELECT pg_catalog.string_agg(item, ',') AS items, pg_catalog.count(item) AS count
                FROM (SELECT pg_catalog.row_to_json(r.*)::pg_catalog.text AS item FROM old_rows r LIMIT 33) f) o,
                (SELECT pg_catalog.string_agg(item, ',') AS items, pg_catalog.count(item) AS count
                FROM (SELECT pg_catalog.row_to_json(r.*)::pg_catalog.text AS item FROM new_rows r LIMIT 33) f) n
            WHERE o.count OPERATOR(pg_catalog.=) n.count AND n.count OPERATOR(pg_catalog.<) 33 AND n.count OPERATOR(pg_catalog.>) 0
            AND (SELECT pg_catalog.pg_sequence_last_value('{cdc}.closed'::pg_catalog.regclass)) IS NULL;
            GET DIAGNOSTICS written = ROW_COUNT;
            IF NOT (written OPERATOR(pg_catalog.=) 0 OR pg_catalog.random() OPERATOR(pg_catalog.<) 0.0625
                    OR pg_catalog.pg_sequence_last_value('{cdc}.gate'::pg_catalog.regclass) OPERATOR(pg_catalog.&) 1 OPERATOR(pg_catalog.=) 1) THEN
                RETURN NULL;
            END IF;
        EXCEPTION WHEN serialization_failure THEN
            RAISE;
        WHEN OTHERS THEN
            done := {cdc}.mark_gap();
            RETURN NULL;
        END;
    END IF;
    BEGIN
        IF written OPERATOR(pg_catalog.=) 1 THEN
            SELECT pg_catalog.concat('[', pg_catalog.string_agg(pg_catalog.row_to_json(r.*)::pg_catalog.text, ','), ']')
            FROM old_rows r INTO old_item;
            SELECT pg_catalog.concat('[', pg_catalog.string_agg(pg_catalog.row_to_json(r.*)::pg_catalog.text, ','), ']')
            FROM new_rows r INTO new_item;
            done := {cdc}.tell('U', TG_RELID, seq, old_item, new_item, %1$s);
            RETURN NULL;
        END IF;
        old_batch := '{{}}';
        new_batch := '{{}}';
        batch_bytes := 0;
        OPEN olds FOR SELECT pg_catalog.row_to_json(r.*)::pg_catalog.text FROM old_rows r;
        FOR new_item IN SELECT pg_catalog.row_to_json(r.*)::pg_catalog.text FROM new_rows r LOOP
            IF batch_bytes OPERATOR(pg_catalog.>) 1048576 THEN
                done := {cdc}.record_batch('U', TG_RELID, old_batch, new_batch);
                old_batch := '{{}}';
                new_batch := '{{}}';
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
            done := {cdc}.record_batch('U', TG_RELID, old_batch, new_batch);
        END IF;
    EXCEPTION WHEN serialization_failure THEN
        RAISE;
    WHEN OTHERS THEN
        done := {cdc}.mark_gap();
    END;
    RETURN NULL;
END
$capture$
$create$;
    -- %1$s: the segment.
    record CONSTANT text := $create$
CREATE OR REPLACE FUNCTION {cdc}.record(operation pg_catalog.text, relation pg_catalog.oid, old_text pg_catalog.text, new_text pg_catalog.text)
RETURNS pg_catalog.bool
LANGUAGE plpgsql
AS $record$
#variable_conflict use_variable
DECLARE
    seq CONSTANT pg_catalog.pg_lsn := pg_catalog.pg_current_wal_insert_lsn();
    written pg_catalog.int8;
    done pg_catalog.bool;
BEGIN
    -- Two texts can be too large for one row of a table, though neither is.
    IF pg_catalog.current_setting('cdc_bridge.hold', true) OPERATOR(pg_catalog.=) '%1$s'
            AND COALESCE(pg_catalog.octet_length(old_text), 0) OPERATOR(pg_catalog.+) COALESCE(pg_catalog.octet_length(new_text), 0) OPERATOR(pg_catalog.<) 100000000 THEN
        INSERT INTO {cdc}.change_log_%1$s
        SELECT seq, pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(), relation,
            COALESCE(pg_catalog.pg_relation_filenode(relation), 0), operation::pg_catalog."char", old_text, new_text
        WHERE (SELECT pg_catalog.pg_sequence_last_value('{cdc}.closed'::pg_catalog.regclass)) IS NULL;
        GET DIAGNOSTICS written = ROW_COUNT;
        IF NOT (written OPERATOR(pg_catalog.=) 0 OR pg_catalog.octet_length(pg_catalog.concat(old_text, new_text)) OPERATOR(pg_catalog.>) 100000
                OR pg_catalog.random() OPERATOR(pg_catalog.<) 0.0625 OR pg_catalog.pg_sequence_last_value('{cdc}.gate'::pg_catalog.regclass) OPERATOR(pg_catalog.&) 1 OPERATOR(pg_catalog.=) 1) THEN
            RETURN true;
        END IF;
    ELSE
        BEGIN
            INSERT INTO {cdc}.change_log_%1$s
            SELECT seq, pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(), relation,
                COALESCE(pg_catalog.pg_relation_filenode(relation), 0), operation::pg_catalog."char", old_text, new_text
            WHERE (SELECT pg_catalog.pg_sequence_last_value('{cdc}.closed'::pg_catalog.regclass)) IS NULL;
            GET DIAGNOSTICS written = ROW_COUNT;
            IF NOT (written OPERATOR(pg_catalog.=) 0 OR pg_catalog.octet_length(pg_catalog.concat(old_text, new_text)) OPERATOR(pg_catalog.>) 100000
                    OR pg_catalog.random() OPERATOR(pg_catalog.<) 0.0625 OR pg_catalog.pg_sequence_last_value('{cdc}.gate'::pg_catalog.regclass) OPERATOR(pg_catalog.&) 1 OPERATOR(pg_catalog.=) 1) THEN
                RETURN true;
            END IF;
        EXCEPTION WHEN serialization_failure THEN
            RAISE;
        WHEN OTHERS THEN
            RETURN {cdc}.mark_gap();
        END;
    END IF;
    IF written OPERATOR(pg_catalog.=) 0 THEN
        RETURN {cdc}.mark_gap();
    END IF;
    BEGIN
        done := {cdc}.tell(operation, relation, seq, old_text, new_text, %1$s);
    EXCEPTION WHEN serialization_failure THEN
        RAISE;
    WHEN OTHERS THEN
        done := {cdc}.mark_gap();
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
    EXECUTE format('CREATE OR REPLACE FUNCTION {cdc}.current_segment() RETURNS int LANGUAGE sql IMMUTABLE AS ''SELECT %s''',
        number);
    REVOKE ALL ON FUNCTION {cdc}.current_segment(), {cdc}.capture_durable_insert(), {cdc}.capture_durable_update(), {cdc}.capture_durable_delete(),
        {cdc}.record(text, oid, text, text) FROM PUBLIC;
END
$write_to_segment$;

REVOKE ALL ON FUNCTION {cdc}.write_to_segment(int) FROM PUBLIC;

-- To begin with the first segment; afterwards with the one that was written to.
DO $make$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('cdc_bridge'), hashtext('{cdc}.segment'));
    IF to_regprocedure('{cdc}.current_segment()') IS NULL THEN
        PERFORM {cdc}.write_to_segment(0);
    ELSE
        PERFORM {cdc}.write_to_segment({cdc}.current_segment());
    END IF;
END
$make$;
