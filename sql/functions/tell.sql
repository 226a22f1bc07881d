-- What follows a row of the log: always while the gate is open, and at one of sixteen by chance. Returns whether bridges were told.
--
-- By chance: remembers that this transaction holds the segment (see write_to_segment), looks at the size of the log, and
-- shuts the gate when the bridges' lease has run out.
--
-- While the gate is open it notifies: the rows themselves where they fit, else that there is something to read. The form:
-- a line of version, operation, seq, xid, relation's oid, its filenode, microseconds since 1970 and the gate's value; then old
-- and new rows as one JSON array of two arrays, or nothing. By the value a bridge knows that the gate was shut meanwhile, and
-- that there may be changes which this one's transaction saw and nobody told. client_min_messages keeps the channel's name from
-- a session that asks for trace_notify.
--
-- What a transaction notifies waits in its memory and then in PostgreSQL's queue, and a full queue fails the COMMIT of
-- whoever comes next. So a transaction that notifies much, or finds the queue half full, shuts the gate instead: the
-- bridges find that at their next beat at the latest, and read the log.
CREATE OR REPLACE FUNCTION {cdc}.tell(operation text, relation oid, seq pg_lsn, old_text text, new_text text, segment int) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = error
AS $tell$
DECLARE
    channel text;
    -- 7,999 bytes is PostgreSQL's limit, in the server's encoding, which can be wider than UTF-8.
    rows_bytes_max CONSTANT int := CASE WHEN getdatabaseencoding() = 'UTF8' THEN 7800 ELSE 3900 END;
    said text;
    pending bigint;
    gate bigint;
    is_open boolean;
    body text := '';
    done boolean;
BEGIN
    -- Not above, where nothing would catch what goes wrong.
    channel := 'cdc_' || pg_sequence_last_value('{cdc}.channel'::regclass)::text;
    gate := pg_sequence_last_value('{cdc}.gate'::regclass);
    is_open := gate & 1 = 1;
    IF random() < 0.3 OR NOT is_open OR octet_length(concat(old_text, new_text)) > 100000 THEN
        PERFORM set_config('cdc_bridge.hold', segment::text, true);
        done := {cdc}.make_room(segment);
        -- The clock first: who renews the lease in time must be able to rely on it.
        IF is_open AND date_part('epoch', clock_timestamp()) * 1000000 > pg_sequence_last_value('{cdc}.lease'::regclass) THEN
            done := {cdc}.shut_gate();
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
        done := {cdc}.shut_gate();
        RETURN false;
    END IF;
    PERFORM set_config('cdc_bridge.pending_bytes', pending::text, true);
    IF operation = 'T' OR coalesce(old_text, new_text) IS NOT NULL THEN
        -- A single row may come without the brackets.
        body := concat('[', CASE WHEN starts_with(old_text, '{{') THEN '[' || old_text || ']' ELSE coalesce(old_text, '[]') END, ',',
            CASE WHEN starts_with(new_text, '{{') THEN '[' || new_text || ']' ELSE coalesce(new_text, '[]') END, ']');
    END IF;
    IF octet_length(body) > rows_bytes_max THEN
        body := '';
    END IF;
    PERFORM pg_notify(channel, format(E'2 %s %s %s %s %s %s %s\n', operation, seq, pg_current_xact_id(), relation,
        coalesce(pg_relation_filenode(relation), 0), (date_part('epoch', clock_timestamp()) * 1000000)::bigint, gate) || body);
    RETURN true;
EXCEPTION WHEN OTHERS THEN
    -- Nothing is lost: whoever finds the gate shut reads the log. A statement of its own: of `shut_gate() AND false` PostgreSQL
    -- knows the value without calling anything.
    done := {cdc}.shut_gate();
    RETURN false;
END
$tell$;

REVOKE ALL ON FUNCTION {cdc}.tell(text, oid, pg_lsn, text, text, int) FROM PUBLIC;
