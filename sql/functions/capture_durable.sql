-- The trigger function of tables that are attached in the mode `durable`, AFTER each statement, if the quicker ones of
-- write_to_segment() cannot be used: for tables with excluded columns or with columns whose values read differently
-- under other settings, and for TRUNCATE. It goes through the rows one by one and records them in batches of about
-- 1,000 rows or 1 MiB.
--
-- Arguments, transition tables and settings are as for capture(); the two transition tables of an UPDATE pair by
-- position. Every error while rows are rendered is caught and marked as a gap. The only batch of most statements is
-- recorded outside of the block that catches, which therefore takes no transaction id; record() catches for itself.
-- Several batches are recorded inside of it, and need no blocks of their own.
CREATE OR REPLACE FUNCTION {cdc}.capture_durable() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
SET IntervalStyle = 'iso_8601'
SET bytea_output = 'hex'
SET extra_float_digits = 1
SET quote_all_identifiers = off
SET lc_monetary FROM CURRENT
SET debug_print_plan = off
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
    hold text;
    done boolean;
BEGIN
    IF current_setting('cdc_bridge.hold', true) = 'batch' THEN
        -- The application has set it: ours is not set here, and with it record() would catch nothing.
        done := set_config('cdc_bridge.hold', '', true) IS NULL;
    END IF;
    IF TG_OP = 'TRUNCATE' THEN
        done := {cdc}.record('T', TG_RELID, NULL, NULL);
        RETURN NULL;
    END IF;
    BEGIN
        IF TG_NARGS > 0 THEN
            columns := {cdc}.visible_columns(TG_RELID, TG_ARGV);
        END IF;
        IF TG_OP <> 'DELETE' THEN
            new_batch := '{{}}';
            IF columns IS NULL THEN
                OPEN news FOR SELECT row_to_json(r.*)::text FROM new_rows r;
            ELSE
                OPEN news FOR EXECUTE format('SELECT row_to_json(v.*)::text FROM (SELECT %s FROM new_rows r) v', columns);
            END IF;
        END IF;
        IF TG_OP <> 'INSERT' THEN
            old_batch := '{{}}';
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
            -- Before the loop ends, so that what is large is recorded where it is caught: it may be too large.
            IF batch_bytes > 1048576 THEN
                IF hold IS NULL THEN
                    hold := coalesce(current_setting('cdc_bridge.hold', true), '');
                    PERFORM {cdc}.write_kept(), set_config('cdc_bridge.hold', 'batch', true);
                END IF;
                done := {cdc}.record_batch(left(TG_OP, 1), TG_RELID, old_batch, new_batch);
                old_batch := CASE WHEN olds IS NOT NULL THEN '{{}}' END;
                new_batch := CASE WHEN news IS NOT NULL THEN '{{}}' END;
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
        IF hold IS NOT NULL THEN
            IF batch_bytes > 0 THEN
                done := {cdc}.record_batch(left(TG_OP, 1), TG_RELID, old_batch, new_batch);
            END IF;
            PERFORM set_config('cdc_bridge.hold', hold, true);
            RETURN NULL;
        END IF;
    EXCEPTION WHEN serialization_failure THEN
        RAISE;
    WHEN OTHERS THEN
        done := {cdc}.mark_gap();
        IF SQLSTATE = '53100' AND to_regproc('{cdc}.close_log') IS NOT NULL THEN
            done := {cdc}.close_log(2);  -- the disk is full
        END IF;
        RETURN NULL;
    END;
    IF batch_bytes > 0 THEN
        -- Somebody has dropped what is called below, and nothing catches here; or there is a row that was to move to
        -- another partition, and that a BEFORE trigger there did not let in.
        IF to_regproc('{cdc}.record_batch') IS NULL OR to_regproc('{cdc}.record') IS NULL
                OR TG_OP = 'UPDATE' AND (array_position(old_batch, NULL) > 0 OR array_position(new_batch, NULL) > 0) THEN
            done := {cdc}.mark_gap();
        ELSE
            done := {cdc}.record_batch(left(TG_OP, 1), TG_RELID, old_batch, new_batch);
        END IF;
    END IF;
    RETURN NULL;
END
$capture_durable$;

REVOKE ALL ON FUNCTION {cdc}.capture_durable() FROM PUBLIC;
