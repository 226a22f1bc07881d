-- Give the recorded runtime role its rights on our schema; nothing where none is recorded. Repeating it changes nothing.
DO $grant$
DECLARE
    given record;
BEGIN
    FOR given IN
        WITH {recorded},
        {rights}
        SELECT rights.kind, rights.name, rights.privilege, runtime.rolname AS role
        FROM runtime CROSS JOIN rights
        WHERE pg_has_role(runtime.owner, 'USAGE')
    LOOP
        EXECUTE format('GRANT %s ON %s {cdc}%s TO %I', given.privilege, given.kind,
            CASE WHEN given.kind <> 'SCHEMA' THEN format('.%I', given.name) END, given.role);
    END LOOP;
END
$grant$;
