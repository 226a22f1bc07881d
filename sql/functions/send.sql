-- Sends one payload to the bridges: as it is when it fits into a notification, else in parts. Returns their number.
--
-- A payload is a head line and a body. The head: version, operation, seq, xid, relation's oid, its filenode,
-- number of this part, and '+' when another part follows or '.' when this is the last.
-- Raises when the queue of notifications has no room left for it, so that the caller can mark a gap instead of
-- letting the application's COMMIT fail.
--
-- Functions are called by assignment, here and in capture(), where PERFORM would say it better: an assignment is
-- evaluated as a mere expression, PERFORM runs a query, which makes 5 microseconds for each statement captured.
CREATE OR REPLACE FUNCTION {cdc}.send(operation text, relation oid, body text) RETURNS int
LANGUAGE plpgsql
AS $send$
DECLARE
    channel CONSTANT text := 'cdc_' || pg_sequence_last_value('{cdc}.channel'::regclass)::text;
    head CONSTANT text := format('1 %s %s %s %s %s ', operation, nextval('{cdc}.seq'::regclass), pg_current_xact_id(),
        relation, coalesce(pg_relation_filenode(relation), 0));
    -- 7,999 bytes is PostgreSQL's limit, in the server's encoding, which can be wider than UTF-8.
    part_bytes_max CONSTANT int := CASE WHEN getdatabaseencoding() = 'UTF8' THEN 7800 ELSE 3900 END;
    bytes bytea;
    from_byte int := 0;
    to_byte int;
    part int := 0;
    reserved_bytes CONSTANT bigint := {cdc}.reserve(octet_length(body));
    sent text;
BEGIN
    IF octet_length(body) <= part_bytes_max THEN
        sent := pg_notify(channel, head || E'0 .\n' || body);
        RETURN 1;
    END IF;
    -- Cut as bytes: finding the n-th character of a long text walks it from its beginning.
    bytes := convert_to(body, 'UTF8');
    WHILE from_byte < length(bytes) LOOP
        to_byte := least(from_byte + part_bytes_max, length(bytes));
        -- Not inside a character: a byte 10xxxxxx continues the one before it.
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

REVOKE ALL ON FUNCTION {cdc}.send(text, oid, text) FROM PUBLIC;
