-- Decide for all bridges whether anything notifies. With `off` the gate is shut by the same statement, not when the next
-- bridge looks.
WITH recorded AS (
    INSERT INTO {cdc}.setting (name, value) VALUES ('notify', {value})
    ON CONFLICT (name) DO UPDATE SET value = excluded.value
    RETURNING value
)
SELECT CASE value WHEN 'off' THEN {cdc}.shut_gate() END FROM recorded
