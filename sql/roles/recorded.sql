-- Part of grant and missing, and nothing by itself: the runtime role (`runtime`), as `cdc-bridge sql --roles` has recorded it. It stands
-- in the comment of the role that owns our schema. Or that owner was granted the runtime role, by itself and without admin, inherit
-- and set, and the runtime role may CONNECT to this database. Both outlive the schema, and only who could become the owner can
-- make them.
runtime AS (
    SELECT r.oid, r.rolname, n.nspowner AS owner
    FROM pg_namespace n
    JOIN pg_roles r ON r.oid <> n.nspowner
    WHERE n.oid = to_regnamespace('{cdc}') AND (
        shobj_description(n.nspowner, 'pg_authid') = 'cdc_bridge: the runtime role is ' || r.rolname
        OR EXISTS (
            SELECT
            FROM pg_auth_members m
            JOIN pg_database d ON d.datname = current_database()
            CROSS JOIN aclexplode(d.datacl) AS acl
            WHERE m.roleid = r.oid AND m.member = n.nspowner AND m.grantor = n.nspowner
              -- As JSON, since a membership has these options on PostgreSQL 16 and newer only.
              AND to_jsonb(m) @> '{{"admin_option": false, "inherit_option": false, "set_option": false}}'
              AND acl.grantee = r.oid AND acl.privilege_type = 'CONNECT'))
)
