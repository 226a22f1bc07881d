-- Part of grant and missing, and nothing by itself: the runtime role (`runtime`), as `cdc-bridge sql --roles` has recorded it. It stands
-- in the comment of the role that owns our schema. So it outlives the schema, and only who could become that role can change it.
runtime AS (
    SELECT r.oid, r.rolname, n.nspowner AS owner
    FROM pg_namespace n
    CROSS JOIN shobj_description(n.nspowner, 'pg_authid') AS comment(text)
    JOIN pg_roles r ON r.rolname = substr(comment.text, length('cdc_bridge: the runtime role is ') + 1)
    WHERE n.oid = to_regnamespace('{cdc}') AND r.oid <> n.nspowner
      AND starts_with(comment.text, 'cdc_bridge: the runtime role is ')
)
