-- What attach, detach and status need to know of the tables of these oids, or (where they are NULL) of all that carry a trigger
-- of ours, and of all partitions under them; parents first. It takes no lock on any of them, see reporting.sql.
WITH RECURSIVE captured AS (
    SELECT t.tgrelid AS oid
    FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace f ON f.oid = p.pronamespace
    WHERE %(oids)s::oid[] IS NULL AND f.nspname = %(schema)s AND starts_with(t.tgname, %(prefix)s)
        AND (p.proname IN ('capture', 'capture_row') OR starts_with(p.proname, 'capture_durable'))
),
named AS (
    SELECT unnest(%(oids)s::oid[]) AS oid
    UNION SELECT oid FROM captured
    UNION SELECT pg_partition_root(oid) FROM captured WHERE pg_partition_root(oid) IS NOT NULL
),
tree AS (
    SELECT named.oid, 0 AS level FROM named
    UNION ALL
    SELECT i.inhrelid, tree.level + 1
    FROM tree
    JOIN pg_inherits i ON i.inhparent = tree.oid
    JOIN pg_class c ON c.oid = i.inhrelid
    WHERE c.relispartition AND NOT i.inhdetachpending
),
-- Casts to json by functions of a role that has not the rights of the one that our triggers run as, and would get them there. Of
-- rows and arrays row_to_json() does not ask for a cast, only of what is in them.
foreign_cast AS MATERIALIZED (
    SELECT x.castsource AS source, f.oid::regprocedure::text AS function, pg_get_userbyid(f.proowner) AS owner
    FROM pg_cast x
    JOIN pg_proc f ON f.oid = x.castfunc
    JOIN pg_type s ON s.oid = x.castsource AND s.typtype <> 'c' AND s.typsubscript <> 'array_subscript_handler'::regproc
    WHERE x.casttarget = 'json'::regtype AND x.castmethod = 'f' AND NOT pg_has_role(f.proowner, coalesce(
        (SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = %(schema)s),
        (SELECT r.oid FROM pg_roles r WHERE r.rolname = CURRENT_USER)), 'MEMBER')
)
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS relkind,
    c.relpersistence = 't' AS is_temporary, c.relispartition AS is_partition, member.root::bigint AS root_id,
    root.relname AS root_name, root_n.nspname AS root_schema,
    NOT c.relispartition AND EXISTS (SELECT FROM pg_inherits i WHERE c.oid IN (i.inhrelid, i.inhparent)
        AND NOT EXISTS (SELECT FROM pg_partitioned_table p WHERE p.partrelid = i.inhparent)) AS has_inheritance,
    pg_has_role(c.relowner, 'USAGE') AS is_owned, pg_get_userbyid(c.relowner) AS owner,
    -- So it is when a table was given to another role: this role owns our schema, and so could attach it, and may not even read it.
    NOT has_any_column_privilege(c.oid, 'SELECT') AND NOT pg_has_role(c.relowner, 'USAGE')
        AND EXISTS (SELECT FROM pg_namespace ours WHERE ours.nspname = %(schema)s AND pg_has_role(ours.nspowner, 'USAGE')) AS is_out_of_reach,
    EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attgenerated = 'v' AND NOT a.attisdropped) AS has_virtual_columns,
    -- Whether no session's settings show in the values, as JSON has them. Of an enum only a cast to json of the maker's own
    -- could change that.
    NOT EXISTS (
        SELECT
        FROM pg_type t
        WHERE t.oid = ANY (made_of.types) AND t.typtype NOT IN ('d', 'c') AND t.typsubscript <> 'array_subscript_handler'::regproc
          AND (t.typtype <> 'e' OR EXISTS (SELECT FROM pg_cast x WHERE x.castsource = t.oid AND x.casttarget = 'json'::regtype))
          AND t.oid <> ALL ('{{bool,int2,int4,int8,numeric,text,varchar,bpchar,name,"\"char\"",uuid,json,jsonb,date,time,timestamp,timestamptz,'
              'inet,cidr,macaddr,macaddr8,oid,bit,varbit}}'::regtype[])
    ) AS is_plain,
    (SELECT min(concat(k.function, ' of the role "', k.owner, '"'))
     FROM foreign_cast k WHERE k.source = ANY (made_of.types)) AS foreign_cast,
    -- tgtype: 1 is FOR EACH ROW, 2 BEFORE, 4 INSERT, 8 DELETE, 16 UPDATE, 32 TRUNCATE, 64 INSTEAD OF.
    (SELECT min(t.tgname) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace f ON f.oid = p.pronamespace
     WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgtype & (1 | 2 | 64) = 1
        AND NOT (f.nspname = %(schema)s AND (p.proname = 'capture_row' OR starts_with(p.proname, 'capture_durable'))
            AND starts_with(t.tgname, %(prefix)s))) AS row_trigger,
    EXISTS (SELECT FROM pg_subscription_rel s WHERE s.srrelid = c.oid) AS is_subscribing,
    ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts - 1])
     WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY a.attnum) AS key,
    (SELECT coalesce(json_object_agg(a.attname, a.attnum), '{{}}') FROM pg_attribute a
     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
    (SELECT coalesce(json_agg(json_build_object(
        'name', t.tgname, 'enabled', t.tgenabled, 'is_clone', t.tgparentid <> 0, 'function', p.proname,
        -- Spelled by hand: where there is a condition, pg_get_triggerdef() takes a lock on the table.
        'definition', concat_ws(' ', CASE t.tgtype & (2 | 64) WHEN 0 THEN 'AFTER' ELSE 'BEFORE' END,
            CASE t.tgtype & (4 | 8 | 16 | 32) WHEN 4 THEN 'INSERT' WHEN 8 THEN 'DELETE' WHEN 16 THEN 'UPDATE'
                WHEN 32 THEN 'TRUNCATE' ELSE 'several' END,
            CASE WHEN t.tgattr::text <> '' THEN 'of columns' END,
            CASE WHEN coalesce(t.tgoldtable, t.tgnewtable) IS NOT NULL THEN 'REFERENCING' END,
            'OLD TABLE AS ' || t.tgoldtable, 'NEW TABLE AS ' || t.tgnewtable,
            'FOR EACH ' || CASE t.tgtype & 1 WHEN 1 THEN 'ROW' ELSE 'STATEMENT' END),
        -- On the row type of the view change_log, see triggers/condition.sql.
        'depends_on_log', EXISTS (SELECT FROM pg_depend d JOIN pg_type log ON log.oid = d.refobjid
            WHERE d.classid = 'pg_trigger'::regclass AND d.objid = t.oid AND d.refclassid = 'pg_type'::regclass
                AND log.typnamespace = f.oid AND log.typname = 'change_log'),
        -- The arguments are bytes, each ended by a zero: spell them in hex, pair by pair, to split there.
        'arguments', (SELECT coalesce(json_agg(convert_from(decode(replace(argument.hex, ' ', ''), 'hex'),
                current_setting('server_encoding')) ORDER BY argument.position), '[]')
            FROM regexp_split_to_table(regexp_replace(encode(t.tgargs, 'hex'), '(..)', '\1 ', 'g'), '00 ')
                WITH ORDINALITY AS argument(hex, position)
            WHERE argument.hex <> '')) ORDER BY t.tgname), '[]')
     FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace f ON f.oid = p.pronamespace
     WHERE t.tgrelid = c.oid AND f.nspname = %(schema)s AND (p.proname IN ('capture', 'capture_row') OR starts_with(p.proname, 'capture_durable'))
        AND starts_with(t.tgname, %(prefix)s)) AS triggers
FROM (
    SELECT tree.oid, coalesce(pg_partition_root(tree.oid), tree.oid)::oid AS root, max(tree.level) AS level
    FROM tree
    GROUP BY tree.oid
) AS member
JOIN pg_class c ON c.oid = member.oid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class root ON root.oid = member.root
JOIN pg_namespace root_n ON root_n.oid = root.relnamespace
-- The types of its columns. Domains are their base types too, arrays and composite types what they consist of.
CROSS JOIN LATERAL (
    WITH RECURSIVE part AS (
        SELECT a.atttypid AS oid FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        UNION
        SELECT inside.oid
        FROM part
        JOIN pg_type t ON t.oid = part.oid
        CROSS JOIN LATERAL (
            SELECT t.typbasetype AS oid WHERE t.typtype = 'd'
            UNION ALL
            SELECT t.typelem WHERE t.typsubscript = 'array_subscript_handler'::regproc
            UNION ALL
            SELECT a.atttypid FROM pg_attribute a
            WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        ) AS inside
    )
    SELECT array_agg(oid) AS types FROM part
) AS made_of
ORDER BY root_n.nspname, root.relname, member.level, n.nspname, c.relname
