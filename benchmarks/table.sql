-- A table as applications have them: an identity key, two more indexes, and columns of the usual types.
CREATE TABLE {table} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account int NOT NULL,
    state text NOT NULL DEFAULT 'open',
    note text,
    amount numeric(12, 2) NOT NULL,
    details jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz{more}
);
CREATE INDEX ON {table} (account);
CREATE INDEX ON {table} (created_at);
