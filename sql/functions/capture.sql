-- The trigger function of an attached table: AFTER each statement, with transition tables new_rows and old_rows.
--
-- Sends the rows as JSON, at most 1,000 of them or 1 MiB together: new rows for INSERT, old ones for DELETE, and for
-- UPDATE each old row followed by its new one (the two transition tables pair by position). The trigger's arguments
-- are the excluded columns, see visible_columns; the argument '0:' excludes nothing but asks for the columns one by
-- one, which a table with virtual generated columns needs and which costs some 40 microseconds.
--
-- What this may never do is fail the application's statement. So whatever goes wrong while rows are rendered and
-- sent is caught, and the sequence `gap` tells the bridges that they have missed something. The block that catches is
-- a subtransaction, which is cheap here: nothing in it writes, so it is never given a transaction id.
--
-- The settings pin how values read, whatever the session says. client_min_messages keeps the channel's name from a
-- session that asks for trace_notify or debug_print_plan. Values of type money keep the scale of the locale that this
-- was installed under. Every name is qualified by {cdc} or found in pg_catalog. Rows are written `r.*`: a mere `r`
-- would be the column of that name where there is one.
CREATE OR REPLACE FUNCTION {cdc}.capture() RETURNS trigger
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
    batch text[] := '{{}}';
    batch_bytes int := 0;
    sent int;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        sent := {cdc}.send('T', TG_RELID, '');
        RETURN NULL;
    END IF;

    IF TG_NARGS > 0 THEN
        columns := {cdc}.visible_columns(TG_RELID, TG_ARGV);
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
            sent := {cdc}.send(left(TG_OP, 1), TG_RELID, '[' || array_to_string(batch, ',') || ']');
            batch := '{{}}';
            batch_bytes := 0;
        END IF;
        batch := array_append(batch, item);
        batch_bytes := batch_bytes + octet_length(item);
    END LOOP;
    IF TG_OP = 'UPDATE' THEN
        -- A row that was to move to another partition, and that a BEFORE trigger there did not let in.
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
        sent := {cdc}.send(left(TG_OP, 1), TG_RELID, '[' || array_to_string(batch, ',') || ']');
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    BEGIN
        PERFORM nextval('{cdc}.gap'::regclass);
    EXCEPTION WHEN OTHERS THEN
        -- Somebody dropped it. The bridges, which cannot read it either, notice by themselves.
        NULL;
    END;
    RETURN NULL;
END
$capture$;

REVOKE ALL ON FUNCTION {cdc}.capture() FROM PUBLIC;
