-- Notifies a change that was written to the log, if the gate is open. Returns false if it is not.
--
-- The form: a line of version, operation, seq, xid, the relation's oid, its filenode, microseconds since 1970 and the
-- gate's value; then old and new rows as one JSON array of two arrays, or nothing if they do not fit, which says that
-- there is something to read. The gate's value tells a bridge whether the gate was shut meanwhile: then there may be
-- changes that this transaction saw and that were not notified.
--
-- It also looks at the size of the log and at the bridges' lease, and shuts the gate if the lease has run out. In a
-- transaction older than half a millisecond only one call in sixteen does so, by chance.
--
-- What a transaction notifies waits in its memory and then in PostgreSQL's queue, and if the queue is full the next
-- COMMIT that notifies fails. So such a call also shuts the gate if the transaction is older than a second. Each call
-- does if the queue is half full, and if the session has set trace_notify, which would show it the channel's name.
-- Bridges notice that at their next heartbeat at the latest, and read the log.
--
-- capture_durable_insert() and its like call it for one write in sixteen, and otherwise notify by themselves, see
-- write_to_segment(). It has no SET, which would cost more than the rest, and qualifies every name.
CREATE OR REPLACE FUNCTION {cdc}.tell(
    operation text, relation oid, seq pg_lsn, old_text text, new_text text, segment int
) RETURNS boolean
LANGUAGE plpgsql
AS $tell$
#variable_conflict use_variable
DECLARE
    gate pg_catalog.int8;
    is_old pg_catalog.bool;
    done pg_catalog.bool;
    sent pg_catalog.text;
BEGIN
    gate := pg_catalog.pg_sequence_last_value('{cdc}.gate'::pg_catalog.regclass);
    -- While the log is closed the gate is odd, and not open.
    IF gate OPERATOR(pg_catalog.&) 1 OPERATOR(pg_catalog.=) 0
            OR pg_catalog.pg_sequence_last_value('{cdc}.closed'::pg_catalog.regclass) IS NOT NULL THEN
        RETURN false;
    END IF;
    is_old := pg_catalog.clock_timestamp()
        OPERATOR(pg_catalog.>) (pg_catalog.now() OPERATOR(pg_catalog.+) '500 us'::pg_catalog.interval);
    IF is_old AND COALESCE(pg_catalog.current_setting('cdc_bridge.hold', true), '') OPERATOR(pg_catalog.=) '' THEN
        -- See write_to_segment().
        done := pg_catalog.length(pg_catalog.set_config('cdc_bridge.writes',
                pg_catalog.concat(pg_catalog.current_setting('cdc_bridge.writes', true), 'x'), true))
            OPERATOR(pg_catalog.>=) 30 AND pg_catalog.set_config('cdc_bridge.hold', 'on', true) IS NULL;
    END IF;
    IF NOT is_old OR pg_catalog.random() OPERATOR(pg_catalog.<) 0.0625
            OR pg_catalog.pg_notification_queue_usage() OPERATOR(pg_catalog.>) 0.5
            OR pg_catalog.current_setting('trace_notify') OPERATOR(pg_catalog.=) 'on' THEN
        done := {cdc}.make_room(segment);
        -- The clock first: a bridge that renews the lease in time must be able to rely on it.
        IF pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000000
                OPERATOR(pg_catalog.>) pg_catalog.pg_sequence_last_value('{cdc}.lease'::pg_catalog.regclass)
                OR pg_catalog.pg_notification_queue_usage() OPERATOR(pg_catalog.>) 0.5
                OR pg_catalog.clock_timestamp()
                    OPERATOR(pg_catalog.>) (pg_catalog.now() OPERATOR(pg_catalog.+) '1 s'::pg_catalog.interval)
                OR pg_catalog.current_setting('trace_notify') OPERATOR(pg_catalog.=) 'on' THEN
            done := {cdc}.shut_gate();
            RETURN false;
        END IF;
    END IF;
    -- 7,999 bytes is PostgreSQL's limit. A single row comes without the brackets of an array.
    sent := pg_catalog.pg_notify(
        pg_catalog.concat('cdc_', pg_catalog.pg_sequence_last_value('{cdc}.channel'::pg_catalog.regclass)),
        pg_catalog.format(E'2 %s %s %s %s %s %s %s\n%s', operation, seq, pg_catalog.pg_current_xact_id(), relation,
            COALESCE(pg_catalog.pg_relation_filenode(relation), 0),
            (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8,
            gate, CASE
            WHEN COALESCE(pg_catalog.octet_length(old_text), 0)
                OPERATOR(pg_catalog.+) COALESCE(pg_catalog.octet_length(new_text), 0)
                OPERATOR(pg_catalog.>) 7793 THEN NULL
            WHEN pg_catalog.starts_with(COALESCE(old_text, new_text), '{{')
                THEN pg_catalog.format('[[%s],[%s]]', old_text, new_text)
            WHEN COALESCE(old_text, new_text) IS NOT NULL
                THEN pg_catalog.format('[%s,%s]', COALESCE(old_text, '[]'), COALESCE(new_text, '[]'))
            WHEN operation OPERATOR(pg_catalog.=) 'T' THEN '[[],[]]'
            END));
    RETURN true;
EXCEPTION WHEN OTHERS THEN
    -- Nothing is lost: a bridge that finds the gate shut reads the log.
    done := {cdc}.shut_gate();
    RETURN false;
END
$tell$;

REVOKE ALL ON FUNCTION {cdc}.tell(text, oid, pg_lsn, text, text, int) FROM PUBLIC;
