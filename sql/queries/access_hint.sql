-- Changes, for little, whenever access.sql or claim_functions.sql may say something else; and also when it does not. Rows of
-- catalogs are told by the transaction that wrote them.
SELECT concat_ws(' ', current_user,
    (SELECT sum(hashtextextended(concat_ws(' ', oid, rolname, rolsuper, rolinherit, rolbypassrls), 0)) FROM pg_roles),
    (SELECT sum(hashtextextended(concat_ws(' ', roleid, member, xmin), 0)) FROM pg_auth_members),
    (SELECT datdba FROM pg_database WHERE datname = current_database()),
    (SELECT sum(hashtextextended(concat_ws(' ', oid, xmin), 0)) FROM pg_constraint WHERE contypid <> 0),
    (SELECT sum(hashtextextended(concat_ws(' ', oid, xmin), 0)) FROM pg_namespace),
    (SELECT sum(hashtextextended(concat_ws(' ', oid, xmin), 0)) FROM pg_policy),
    (SELECT sum(hashtextextended(concat_ws(' ', oid, xmin), 0)) FROM pg_class
     WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND relpersistence <> 't'),
    (SELECT sum(hashtextextended(concat_ws(' ', attrelid, attnum, xmin), 0)) FROM pg_attribute WHERE attacl IS NOT NULL),
    (SELECT sum(hashtextextended(concat_ws(' ', a.attrelid, a.attnum, a.xmin), 0))
     FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
     WHERE d.classid = 'pg_policy'::regclass AND d.refclassid = 'pg_class'::regclass),
    (SELECT sum(hashtextextended(concat_ws(' ', oid, xmin), 0)) FROM pg_proc WHERE pronamespace <> 'pg_catalog'::regnamespace),
    (SELECT sum(hashtextextended(concat_ws(' ', oid, xmin), 0)) FROM pg_type WHERE oid >= 16384),
    (SELECT sum(hashtextextended(concat_ws(' ', oid, xmin), 0)) FROM pg_enum),
    (SELECT sum(hashtextextended(concat_ws(' ', oid, xmin), 0)) FROM pg_rewrite WHERE oid >= 16384),
    (SELECT sum(hashtextextended(concat_ws(' ', oid, xmin), 0)) FROM pg_cast WHERE oid >= 16384),
    (SELECT sum(hashtextextended(concat_ws(' ', oid, xmin), 0)) FROM pg_operator WHERE oid >= 16384))
