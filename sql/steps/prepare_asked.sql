-- The body of a DO: prepare a statement as the role of the session, or else as the role that asks, who may use schemas that
-- the session may not.
BEGIN
    EXECUTE {text};
EXCEPTION WHEN insufficient_privilege THEN
    PERFORM pg_catalog.set_config('role', {role}, true);
    EXECUTE {text};
END
