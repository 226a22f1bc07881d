-- What `cdc-bridge bench` makes and measures, in a schema of its own.

-- name: bench_schema
-- The schema for both tables, with the comment by which it is known as ours.
CREATE SCHEMA {schema};
COMMENT ON SCHEMA {schema} IS {mark}

-- name: bench_taken
-- Whether somebody else has a schema of this name.
SELECT nspname FROM pg_catalog.pg_namespace
WHERE nspname = %(schema)s AND pg_catalog.obj_description(oid, 'pg_namespace') IS DISTINCT FROM %(mark)s

-- name: bench_table
-- A table as applications have them, and a procedure that writes to it for some seconds, a row a transaction. What it writes
-- is planned once, as by an application that prepares its statements, and no client's time is part of it.
CREATE TABLE {schema}.{table} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account int NOT NULL,
    state text NOT NULL DEFAULT 'new',
    note text NOT NULL,
    amount numeric(12, 2) NOT NULL,
    details jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz
);
INSERT INTO {schema}.{table} (account, note, amount, details)
SELECT n, 'what the customer had to say about it', n / 100.0, '{{"colour": "blue", "parts": [1, 2, 3]}}'
FROM pg_catalog.generate_series(1, 10000) AS n;
CREATE PROCEDURE {schema}.{procedure}(operation text, seconds float8, INOUT written bigint) LANGUAGE plpgsql AS $$
DECLARE
    ends CONSTANT timestamptz := clock_timestamp() + make_interval(secs => seconds);
BEGIN
    WHILE clock_timestamp() < ends LOOP
        IF operation = 'INSERT' THEN
            INSERT INTO {schema}.{table} (account, note, amount, details)
            VALUES (7, 'what the customer had to say about it', 12.50, '{{"colour": "blue", "parts": [1, 2, 3]}}');
        ELSE
            UPDATE {schema}.{table} SET state = 'paid', updated_at = now() WHERE id = 1 + floor(random() * 10000);
        END IF;
        COMMIT;
        written := written + 1;
    END LOOP;
END $$

-- name: bench_write
-- How many rows one writer has written in so many seconds.
CALL {schema}.{procedure}(%(operation)s, %(seconds)s, 0)

-- name: bench_insert
-- Many rows in one statement.
INSERT INTO {schema}.{table} (account, note, amount, details)
SELECT n, 'what the customer had to say about it', n / 100.0, '{{"colour": "blue", "parts": [1, 2, 3]}}'
FROM pg_catalog.generate_series(1, %(rows)s::int) AS n

-- name: bench_update
-- Change every row.
UPDATE {schema}.{table} SET state = 'paid', updated_at = now()

-- name: bench_delete
-- Delete every row.
DELETE FROM {schema}.{table}
