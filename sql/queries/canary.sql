-- The canary: a row of the bridge's own in a table that the operator has made for it, see docs/metrics.md.

-- name: canary_beat
-- Write the next number to the row of this bridge.
INSERT INTO {table} AS canary (id, beat) VALUES (%(id)s, %(beat)s) ON CONFLICT (id) DO UPDATE SET beat = excluded.beat

-- name: canary_end
-- Remove the row of this bridge.
DELETE FROM {table} WHERE id = %(id)s
