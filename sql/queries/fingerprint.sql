-- Whether anything may have changed that catalog.sql, access.sql, claim_functions.sql, tables.sql or log_problems.sql read: sums
-- over the rows of catalogs. The bridge asks every few seconds and runs those only when the answer differs. No row without our schema.
--
-- A row is told by its key and `xmin`, the transaction that wrote it: VACUUM, also VACUUM FULL of a catalog, and ANALYZE leave
-- that alone. Where applications write often, single columns are told instead: TRUNCATE writes pg_class. Rights are told by their
-- text, since the hash of an aclitem is no more than the sum of its roles and rights. Temporary tables and, as long as there is
-- no policy, tables without triggers are left out, so that creating them is nobody's change.
-- Statistics counters would be cheaper still, but they lag by up to ten seconds, and the size of a catalog says nothing.
WITH ours AS MATERIALIZED (
    SELECT oid FROM pg_namespace WHERE nspname = %(schema)s
),
relation AS MATERIALIZED (
    SELECT c.oid, c.relnamespace = ours.oid AS is_ours
    FROM ours
    JOIN pg_class c ON c.relpersistence <> 't' AND (c.relnamespace = ours.oid
        OR c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND (c.relhastriggers OR c.relkind = 'c' OR EXISTS (SELECT FROM pg_policy)))
)
SELECT ARRAY[
    (SELECT bit_xor(hash_record_extended(ROW(oid, rolname, rolsuper, rolinherit, rolbypassrls), 0)) FROM pg_roles),
    (SELECT bit_xor(hash_record_extended(ROW(roleid, member, grantor, xmin), 0)) FROM pg_auth_members),
    (SELECT datdba::int8 FROM pg_database WHERE datname = current_database()),
    (SELECT bit_xor(hash_record_extended(ROW(oid, xmin), 0)) FROM pg_namespace WHERE NOT starts_with(nspname, 'pg_')),
    (SELECT bit_xor(hash_record_extended(ROW(c.oid, c.relname, c.relnamespace, c.relkind, c.relpersistence, c.relispartition,
        c.relowner, c.relacl::text, c.relrowsecurity, c.relforcerowsecurity, c.reloptions, CASE WHEN c.relhastriggers THEN c.relfilenode END), 0))
     FROM pg_class c JOIN relation r USING (oid)),
    (SELECT bit_xor(hash_record_extended(ROW(attrelid, attnum, xmin), 0))
     FROM pg_attribute WHERE attnum > 0 AND attrelid IN (SELECT oid FROM relation)),
    (SELECT bit_xor(hash_record_extended(ROW(oid, xmin), 0)) FROM pg_attrdef WHERE adrelid IN (SELECT oid FROM relation)),
    (SELECT bit_xor(hash_record_extended(ROW(i.indexrelid, i.xmin), 0))
     FROM pg_index i JOIN relation r ON r.oid = i.indrelid WHERE i.indisprimary OR r.is_ours),
    (SELECT bit_xor(hash_record_extended(ROW(oid, xmin), 0))
     FROM pg_constraint WHERE contype = 'f' OR contypid <> 0 OR conrelid IN (SELECT oid FROM relation WHERE is_ours)),
    (SELECT bit_xor(hash_record_extended(ROW(oid, xmin), 0)) FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM relation)),
    (SELECT bit_xor(hash_record_extended(ROW(inhrelid, inhparent, xmin), 0))
     FROM pg_inherits WHERE inhparent IN (SELECT oid FROM relation) OR inhrelid IN (SELECT oid FROM relation)),
    (SELECT bit_xor(hash_record_extended(ROW(srsubid, srrelid), 0)) FROM pg_subscription_rel),
    (SELECT bit_xor(hash_record_extended(ROW(oid, xmin), 0)) FROM pg_policy),
    (SELECT bit_xor(hash_record_extended(ROW(oid, xmin), 0)) FROM pg_rewrite WHERE ev_class IN (SELECT oid FROM relation)),
    -- Ours are written anew whenever the log goes on to its next segment.
    (SELECT bit_xor(hash_record_extended(ROW(f.oid, f.proname, f.proowner, CASE WHEN f.pronamespace <> ours.oid THEN f.xmin END), 0))
     FROM pg_proc f WHERE f.pronamespace <> 'pg_catalog'::regnamespace),
    -- Row types are told by their relations, array types by their elements.
    (SELECT bit_xor(hash_record_extended(ROW(oid, xmin), 0))
     FROM pg_type WHERE oid >= 16384 AND typtype <> 'c' AND typsubscript <> 'array_subscript_handler'::regproc),
    (SELECT bit_xor(hash_record_extended(ROW(oid, xmin), 0)) FROM pg_enum),
    (SELECT bit_xor(hash_record_extended(ROW(oid, xmin), 0)) FROM pg_collation WHERE oid >= 16384),
    (SELECT bit_xor(hash_record_extended(ROW(oid, xmin), 0)) FROM pg_cast WHERE oid >= 16384),
    (SELECT bit_xor(hash_record_extended(ROW(oid, xmin), 0)) FROM pg_operator WHERE oid >= 16384)
]::text || current_user || pg_is_in_recovery()
FROM ours
