-- Makes the functions that write to the log write to this segment, 0 to 7.
--
-- It replaces their text, because a table's name in a static statement costs nothing, and one that is looked up costs
-- every writer several microseconds. Replacing a function waits for nobody and makes nobody wait. A session that still
-- runs the old text writes to the old segment, which does no harm. current_segment() is replaced with them, so that it
-- says what is true in each transaction. The caller holds the lock that advance_segment() takes.
--
-- The functions:
--
-- - capture_durable_insert(), _update(), _delete(): triggers AFTER each statement, with transition tables, for tables
--   that exclude no column and have none whose values read differently under other settings of the session.
-- - record(): writes one change to the log, for all other triggers and for batches of rows.
--
-- The usual write passes one IF and one INSERT. The IF is true for everything that is rare: the gate is open, the log
-- is closed, the transaction is older than half a millisecond, or the write is the one in 128 that looks at the size of
-- the log. An UPDATE of several rows is rare too: it makes that INSERT fail before anything is written. A statement
-- that took longer than 2 ms may have changed many rows. If there are more than 32, it writes them in batches of up to
-- 1,000 rows or 1 MiB.
--
-- Rule: no write fails. Every error is caught and marked as a gap, with one exception: that the application's
-- transaction cannot be serialised with others, which it would be told later anyway, and of which nothing is missed.
--
-- A write inside a block that catches takes a subtransaction id, and more than 64 of those in a transaction slow down
-- all sessions. In half a millisecond there is time for some twenty writes. From then on a transaction counts its
-- writes in the transaction-local setting `writes`. After thirty more the setting `hold` is `on`: changes are kept in
-- memory and written many at a time, see keep(). A statement of more than one batch is written at once in any case, and
-- its `hold` is `batch`.
--
-- A full disk closes the log (the sequence `closed` is 2): nothing is written to it until a bridge or `prune` finds
-- room.
--
-- plpgsql sets up each expression, and each function in it, anew in each transaction, which costs more than to evaluate
-- it; a function's SET costs more still. So there are as few as possible of all three. Without SET, search_path is the
-- writer's, so every name is qualified. (Operators that are written so have all the same precedence.) The selected
-- columns have exactly the types of the log's; otherwise the plan keeps a step that only renames them.
--
-- `seq` is where the WAL stood: a transaction that saw another one's change has a larger one, and it takes no sequence.
-- All rows with the same `seq` and transaction are one change. `old` and `new` are a row, or an array of rows, as JSON;
-- they pair by position.
--
-- Theory: the application's statement has changed a row, so the transaction has its id before the gate is read. What a
-- bridge concludes when it opens the gate rests on that.
CREATE OR REPLACE FUNCTION {cdc}.write_to_segment(number int) RETURNS void
LANGUAGE plpgsql
AS $write_to_segment$
DECLARE
    -- Parts of the functions' text. `@name` stands for the part of that name.
    --
    -- Conditions:
    is_open CONSTANT text := $part$pg_catalog.pg_sequence_last_value('{cdc}.gate'::pg_catalog.regclass)
            OPERATOR(pg_catalog.&) 1 OPERATOR(pg_catalog.=) 1$part$;
    is_closed CONSTANT text := $part$pg_catalog.pg_sequence_last_value('{cdc}.closed'::pg_catalog.regclass) IS NOT NULL$part$;
    is_old CONSTANT text := $part$pg_catalog.clock_timestamp() OPERATOR(pg_catalog.>)
            (pg_catalog.now() OPERATOR(pg_catalog.+) '500 us'::pg_catalog.interval)$part$;
    is_quick CONSTANT text := $part$pg_catalog.clock_timestamp() OPERATOR(pg_catalog.<)
            (pg_catalog.statement_timestamp() OPERATOR(pg_catalog.+) '2 ms'::pg_catalog.interval)$part$;
    is_kept CONSTANT text := $part$(pg_catalog.current_setting('cdc_bridge.hold', true) OPERATOR(pg_catalog.=) 'on') IS TRUE$part$;
    by_chance CONSTANT text := $part$pg_catalog.random() OPERATOR(pg_catalog.<) 0.0078125$part$;
    -- The write has to look at lease, queue and log, which tell() does.
    has_to_look CONSTANT text := $part$pg_catalog.random() OPERATOR(pg_catalog.<) 0.0625
                OR pg_catalog.pg_notification_queue_usage() OPERATOR(pg_catalog.>) 0.5
                OR pg_catalog.current_setting('trace_notify') OPERATOR(pg_catalog.=) 'on'$part$;
    -- Any error ends a session that asks for it, also one that is caught.
    may_raise CONSTANT text := $part$pg_catalog.current_setting('exit_on_error') OPERATOR(pg_catalog.=) 'off'$part$;
    -- Counts a write. When there were enough, the next ones are kept. Never true.
    count_write CONSTANT text := $part$(pg_catalog.length(pg_catalog.set_config('cdc_bridge.writes',
                    pg_catalog.concat(pg_catalog.current_setting('cdc_bridge.writes', true), 'x'), true))
                OPERATOR(pg_catalog.>=) 30 AND pg_catalog.set_config('cdc_bridge.hold', 'on', true) IS NULL)$part$;

    -- Values:
    channel CONSTANT text := $part$pg_catalog.concat('cdc_',
                    pg_catalog.pg_sequence_last_value('{cdc}.channel'::pg_catalog.regclass))$part$;
    head CONSTANT text := $part$seq, pg_catalog.pg_current_xact_id(), @relation,
                    COALESCE(pg_catalog.pg_relation_filenode(@relation), 0),
                    (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8,
                    pg_catalog.pg_sequence_last_value('{cdc}.gate'::pg_catalog.regclass)$part$;
    columns CONSTANT text := $part$seq, pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(), @relation,
                COALESCE(pg_catalog.pg_relation_filenode(@relation), 0)$part$;
    one_old_row CONSTANT text := $part$(SELECT pg_catalog.row_to_json(o.*)::pg_catalog.text FROM old_rows o)$part$;
    -- Up to 32 rows of a transition table as a count and a text. The count is 33 if there are more, or if they may be
    -- too large for one text.
    few_rows CONSTANT text := $part$SELECT
            CASE WHEN pg_catalog.count(f.item) OPERATOR(pg_catalog.=) pg_catalog.count(*) THEN pg_catalog.count(*) ELSE 33 END,
            CASE WHEN pg_catalog.count(*) OPERATOR(pg_catalog.=) 1 THEN pg_catalog.string_agg(f.item, ',')
                ELSE pg_catalog.concat('[', pg_catalog.string_agg(f.item, ','), ']') END
        FROM (SELECT CASE WHEN @is_quick OR pg_catalog.pg_column_size(r.*) OPERATOR(pg_catalog.<=) 32768
            THEN pg_catalog.row_to_json(r.*)::pg_catalog.text END AS item FROM @rows r LIMIT 33) f$part$;

    -- Statements:
    fail CONSTANT text := $part$WHEN serialization_failure THEN
        RAISE;
    WHEN disk_full THEN
        done := {cdc}.mark_gap();
        BEGIN
            done := {cdc}.close_log(2);
        EXCEPTION WHEN OTHERS THEN
            NULL;  -- dropped by hand
        END;
        RETURN NULL;
    WHEN OTHERS THEN
        done := {cdc}.mark_gap();
        RETURN NULL;
    END;$part$;
    -- In its first plans a query has rows in variables as constants. A writer that may not read them can ask to see
    -- plans.
    hide_plans CONSTANT text := $part$IF pg_catalog.current_setting('debug_print_plan') OPERATOR(pg_catalog.=) 'on' THEN
            hold := pg_catalog.set_config('debug_print_plan', 'off', true);
        END IF;$part$;
    -- The gate is odd while the log is closed, since most writers look at nothing else. A crash, or a session that
    -- shuts the gate at the same moment, can make it even.
    keep_closed CONSTANT text := $part$IF NOT (@is_open) THEN
                done := pg_catalog.nextval('{cdc}.gate'::pg_catalog.regclass) IS NULL;
            END IF;$part$;
    -- A trigger that somebody has made on the segment can let nothing in.
    check_written CONSTANT text := $part$IF NOT FOUND THEN
                IF EXISTS (SELECT FROM @rows) THEN
                    RAISE EXCEPTION 'cdc_bridge: nothing was written';
                END IF;
            END IF;$part$;
    -- Writes the rows that @few_rows found, and ends.
    write_few CONSTANT text := $part$IF @is_kept THEN
                seq := {cdc}.keep('@letter', TG_RELID, seq, @old_item, @new_item);
            ELSE
                done := @count_write;
                INSERT INTO {cdc}.change_log_@segment VALUES (@columns, '@letter', @old_item, @new_item);
                @check_written
            END IF;
            IF @is_open THEN
                done := {cdc}.tell('@letter', TG_RELID, seq, @old_item, @new_item, @segment);
            ELSIF @by_chance THEN
                done := {cdc}.make_room(@segment);
            END IF;
            RETURN NULL;$part$;
    -- Several batches are written in one block that catches, and not in one each. A single one may be kept.
    begin_batches CONSTANT text := $part$done := @is_kept OR @count_write;
        old_hold := pg_catalog.current_setting('cdc_bridge.hold', true);
        IF NOT done THEN
            hold := pg_catalog.set_config('cdc_bridge.hold', 'batch', true);
        END IF;$part$;
    write_batch CONSTANT text := $part$IF old_hold OPERATOR(pg_catalog.=) 'on' THEN
                    done := {cdc}.write_kept() IS NULL;  -- its changes come before these
                END IF;
                hold := pg_catalog.set_config('cdc_bridge.hold', 'batch', true);
                done := {cdc}.record_batch('@letter', TG_RELID, @batches);$part$;

    -- The functions:
    insert_or_delete CONSTANT text := $create$
CREATE OR REPLACE FUNCTION {cdc}.capture_durable_@event() RETURNS pg_catalog.trigger
LANGUAGE plpgsql SECURITY DEFINER
AS $capture$
#variable_conflict use_variable
DECLARE
    seq pg_catalog.pg_lsn := pg_catalog.pg_current_wal_insert_lsn();
    count pg_catalog.int8;
    hold pg_catalog.text;
    old_hold pg_catalog.text;
    item pg_catalog.text;
    batch pg_catalog.text[];
    batch_bytes pg_catalog.int8;
    done pg_catalog.bool;
BEGIN
    BEGIN
        IF NOT (@is_open OR @by_chance OR @is_old) THEN
            INSERT INTO {cdc}.change_log_@segment
            SELECT @columns, '@letter'::pg_catalog."char", @old_row, @new_row
            FROM @rows r;
            @check_written
            RETURN NULL;
        ELSIF @is_open AND NOT (@is_closed) AND @is_quick AND NOT @is_kept AND @may_raise THEN
            INSERT INTO {cdc}.change_log_@segment AS l
            SELECT @columns, '@letter'::pg_catalog."char", @old_row, @new_row
            FROM @rows r
            RETURNING l.@side INTO item;
            @check_written
            IF FOUND AND (@has_to_look OR @is_old) THEN
                done := {cdc}.tell('@letter', TG_RELID, seq, @old_item, @new_item, @segment);
            ELSIF FOUND THEN
                item := pg_catalog.pg_notify(@channel, pg_catalog.format(
                    CASE WHEN pg_catalog.octet_length(item) OPERATOR(pg_catalog.<=) 7793
                        THEN E'2 @letter %s %s %s %s %s %s\n@body' ELSE E'2 @letter %s %s %s %s %s %s\n' END,
                    @head, item));
            END IF;
            RETURN NULL;
        ELSIF @is_closed THEN
            IF EXISTS (SELECT FROM @rows) THEN
                done := {cdc}.mark_gap();
            END IF;
            @keep_closed
            RETURN NULL;
        ELSIF @is_quick AND NOT @is_kept THEN
            done := NOT (@is_old) OR @count_write;
            INSERT INTO {cdc}.change_log_@segment
            SELECT @columns, '@letter'::pg_catalog."char", @old_row, @new_row
            FROM @rows r;
            @check_written
            IF done OR @by_chance THEN
                done := {cdc}.make_room(@segment);
            END IF;
            RETURN NULL;
        END IF;
    EXCEPTION WHEN too_many_rows THEN
        NULL;  -- while the gate is open: they have to be notified together
    @fail
    BEGIN
        @hide_plans
        @few_rows INTO count, item;
        IF count OPERATOR(pg_catalog.=) 0 THEN
            RETURN NULL;
        ELSIF count OPERATOR(pg_catalog.<) 33 THEN
            @write_few
        END IF;
        @begin_batches
        batch := '{{}}';
        batch_bytes := 0;
        FOR item IN SELECT pg_catalog.row_to_json(r.*)::pg_catalog.text FROM @rows r LOOP
            IF batch_bytes OPERATOR(pg_catalog.>) 1048576 THEN
                @write_batch
                batch := '{{}}';
                batch_bytes := 0;
            END IF;
            batch := pg_catalog.array_append(batch, item);
            batch_bytes := batch_bytes OPERATOR(pg_catalog.+) 1048 OPERATOR(pg_catalog.+) pg_catalog.octet_length(item);
        END LOOP;
        done := {cdc}.record_batch('@letter', TG_RELID, @batches);
        hold := pg_catalog.set_config('cdc_bridge.hold', old_hold, true);
    EXCEPTION @fail
    RETURN NULL;
END
$capture$
$create$;
    update CONSTANT text := $create$
CREATE OR REPLACE FUNCTION {cdc}.capture_durable_update() RETURNS pg_catalog.trigger
LANGUAGE plpgsql SECURITY DEFINER
AS $capture$
#variable_conflict use_variable
DECLARE
    seq pg_catalog.pg_lsn := pg_catalog.pg_current_wal_insert_lsn();
    count pg_catalog.int8;
    new_count pg_catalog.int8;
    hold pg_catalog.text;
    old_hold pg_catalog.text;
    item pg_catalog.text;
    old_item pg_catalog.text;
    new_item pg_catalog.text;
    olds pg_catalog.refcursor;
    old_batch pg_catalog.text[];
    new_batch pg_catalog.text[];
    batch_bytes pg_catalog.int8;
    done pg_catalog.bool;
BEGIN
    BEGIN
        IF NOT (@is_open OR @by_chance OR @is_old) AND @may_raise THEN
            INSERT INTO {cdc}.change_log_@segment
            SELECT @columns, 'U'::pg_catalog."char", @one_old_row, pg_catalog.row_to_json(n.*)::pg_catalog.text
            FROM new_rows n;
            IF FOUND THEN
                RETURN NULL;
            ELSIF NOT EXISTS (SELECT FROM old_rows) THEN
                RETURN NULL;
            END IF;
        ELSIF @is_open AND NOT (@is_closed) AND @is_quick AND NOT @is_kept AND @may_raise THEN
            INSERT INTO {cdc}.change_log_@segment AS l
            SELECT @columns, 'U'::pg_catalog."char", @one_old_row, pg_catalog.row_to_json(n.*)::pg_catalog.text
            FROM new_rows n
            RETURNING l.old, l.new INTO old_item, new_item;
            IF FOUND AND (@has_to_look OR @is_old) THEN
                done := {cdc}.tell('U', TG_RELID, seq, old_item, new_item, @segment);
                RETURN NULL;
            ELSIF FOUND THEN
                item := pg_catalog.pg_notify(@channel, pg_catalog.format(
                    CASE WHEN pg_catalog.octet_length(old_item) OPERATOR(pg_catalog.+) pg_catalog.octet_length(new_item)
                            OPERATOR(pg_catalog.<=) 7793
                        THEN E'2 U %s %s %s %s %s %s\n[[%s],[%s]]' ELSE E'2 U %s %s %s %s %s %s\n' END,
                    @head, old_item, new_item));
                RETURN NULL;
            END IF;
        ELSIF @is_closed THEN
            IF EXISTS (SELECT FROM old_rows) THEN
                done := {cdc}.mark_gap();
            END IF;
            @keep_closed
            RETURN NULL;
        ELSIF @is_quick AND NOT @is_kept AND @may_raise THEN
            done := NOT (@is_old) OR @count_write;
            INSERT INTO {cdc}.change_log_@segment
            SELECT @columns, 'U'::pg_catalog."char", @one_old_row, pg_catalog.row_to_json(n.*)::pg_catalog.text
            FROM new_rows n;
            IF FOUND THEN
                IF done OR @by_chance THEN
                    done := {cdc}.make_room(@segment);
                END IF;
                RETURN NULL;
            END IF;
        END IF;
    EXCEPTION WHEN cardinality_violation THEN
        NULL;  -- more rows than one; nothing was written
    @fail
    BEGIN
        @hide_plans
        @few_old_rows INTO count, old_item;
        @few_new_rows INTO new_count, new_item;
        IF count OPERATOR(pg_catalog.=) 0 AND new_count OPERATOR(pg_catalog.=) 0 THEN
            RETURN NULL;
        ELSIF count OPERATOR(pg_catalog.=) new_count AND count OPERATOR(pg_catalog.<) 33 THEN
            @write_few
        END IF;
        @begin_batches
        old_batch := '{{}}';
        new_batch := '{{}}';
        batch_bytes := 0;
        OPEN olds FOR SELECT pg_catalog.row_to_json(r.*)::pg_catalog.text FROM old_rows r;
        FOR new_item IN SELECT pg_catalog.row_to_json(r.*)::pg_catalog.text FROM new_rows r LOOP
            IF batch_bytes OPERATOR(pg_catalog.>) 1048576 THEN
                @write_batch
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
        done := {cdc}.record_batch('U', TG_RELID, old_batch, new_batch);
        hold := pg_catalog.set_config('cdc_bridge.hold', old_hold, true);
    EXCEPTION @fail
    RETURN NULL;
END
$capture$
$create$;
    record CONSTANT text := $create$
CREATE OR REPLACE FUNCTION {cdc}.record(
    operation pg_catalog.text, relation pg_catalog.oid, old_text pg_catalog.text, new_text pg_catalog.text
) RETURNS pg_catalog.bool
LANGUAGE plpgsql
AS $record$
#variable_conflict use_variable
DECLARE
    seq pg_catalog.pg_lsn := pg_catalog.pg_current_wal_insert_lsn();
    count pg_catalog.int8;
    done pg_catalog.bool;
BEGIN
    IF pg_catalog.current_setting('cdc_bridge.hold', true) OPERATOR(pg_catalog.=) 'batch' THEN
        -- One of several batches: the caller catches what goes wrong.
        IF @is_closed THEN
            RETURN {cdc}.mark_gap();
        END IF;
        INSERT INTO {cdc}.change_log_@segment VALUES (@columns, operation::pg_catalog."char", old_text, new_text);
        IF NOT FOUND THEN
            RAISE EXCEPTION 'cdc_bridge: nothing was written';
        END IF;
        RETURN {cdc}.tell(operation, relation, seq, NULL, NULL, @segment) OR {cdc}.make_room(@segment);
    END IF;
    BEGIN
        IF @is_closed THEN
            RETURN {cdc}.mark_gap();
        ELSIF @is_kept THEN
            seq := {cdc}.keep(operation, relation, seq, old_text, new_text);
        ELSE
            done := @count_write;
            INSERT INTO {cdc}.change_log_@segment VALUES (@columns, operation::pg_catalog."char", old_text, new_text);
            IF NOT FOUND THEN
                RAISE EXCEPTION 'cdc_bridge: nothing was written';
            END IF;
        END IF;
        IF @is_open THEN
            done := {cdc}.tell(operation, relation, seq, old_text, new_text, @segment);
        ELSIF @by_chance THEN
            done := {cdc}.make_room(@segment);
        END IF;
        RETURN true;
    EXCEPTION @fail
END
$record$
$create$;
    -- In the order in which they are put in: a part comes before those that it mentions.
    parts CONSTANT text[] := ARRAY[
        ['write_few', write_few], ['begin_batches', begin_batches], ['write_batch', write_batch],
        ['few_old_rows', replace(few_rows, '@rows', 'old_rows')], ['few_new_rows', replace(few_rows, '@rows', 'new_rows')],
        ['few_rows', few_rows], ['check_written', check_written], ['hide_plans', hide_plans], ['keep_closed', keep_closed],
        ['may_raise', may_raise], ['fail', fail], ['columns', columns], ['count_write', count_write], ['is_kept', is_kept],
        ['channel', channel], ['head', head], ['has_to_look', has_to_look], ['is_open', is_open], ['is_closed', is_closed],
        ['is_old', is_old], ['is_quick', is_quick], ['by_chance', by_chance], ['one_old_row', one_old_row],
        ['segment', number::text]];
    of_insert CONSTANT text[] := ARRAY[
        ['event', 'insert'], ['letter', 'I'], ['rows', 'new_rows'], ['side', 'new'], ['relation', 'TG_RELID'],
        ['old_row', 'NULL::pg_catalog.text'], ['new_row', 'pg_catalog.row_to_json(r.*)::pg_catalog.text'],
        ['old_item', 'NULL'], ['new_item', 'item'], ['batches', 'NULL, batch'], ['body', '[[],[%s]]']];
    of_delete CONSTANT text[] := ARRAY[
        ['event', 'delete'], ['letter', 'D'], ['rows', 'old_rows'], ['side', 'old'], ['relation', 'TG_RELID'],
        ['old_row', 'pg_catalog.row_to_json(r.*)::pg_catalog.text'], ['new_row', 'NULL::pg_catalog.text'],
        ['old_item', 'item'], ['new_item', 'NULL'], ['batches', 'batch, NULL'], ['body', '[[%s],[]]']];
    of_update CONSTANT text[] := ARRAY[
        ['letter', 'U'], ['rows', 'old_rows'], ['relation', 'TG_RELID'],
        ['old_item', 'old_item'], ['new_item', 'new_item'], ['batches', 'old_batch, new_batch']];
    of_record CONSTANT text[] := ARRAY[['relation', 'relation']];
    made record;
BEGIN
    FOR made IN VALUES (insert_or_delete, parts || of_insert), (insert_or_delete, parts || of_delete),
            (update, parts || of_update), (record, parts || of_record) LOOP
        FOR i IN 1..array_length(made.column2, 1) LOOP
            made.column1 := replace(made.column1, '@' || made.column2[i][1], made.column2[i][2]);
        END LOOP;
        EXECUTE made.column1;
    END LOOP;
    EXECUTE format('CREATE OR REPLACE FUNCTION {cdc}.current_segment() RETURNS int
        LANGUAGE sql IMMUTABLE AS ''SELECT %s''', number);
    REVOKE ALL ON FUNCTION {cdc}.current_segment(), {cdc}.capture_durable_insert(), {cdc}.capture_durable_update(),
        {cdc}.capture_durable_delete(), {cdc}.record(text, oid, text, text) FROM PUBLIC;
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
