-- Part of access, and nothing by itself: what a policy depends on besides rows (`dependencies`: a digest for each policy of
-- `to_judge`). If a policy's subquery sees other rows because another table has other policies, so does the policy.
to_judge AS MATERIALIZED (
    SELECT p.oid AS policy, t.oid AS own
    FROM attached t
    JOIN pg_policy p ON p.polrelid = t.oid
    WHERE t.relrowsecurity AND p.polcmd IN ('r', '*')
),
-- What a text can name. Schemas are left aside: which of two tables of one name is meant is known only to who runs it. Names have
-- the collation "C", in which PostgreSQL folds them too; there only ASCII makes words.
named AS MATERIALIZED (
    SELECT thing.class, thing.oid, lower(replace(thing.name, '"', '""')) AS name, thing.name ~ '^[\w$]+$' AS is_word
    FROM (
        SELECT 'pg_class'::regclass::oid, c.oid, c.relname, c.relnamespace
        FROM pg_class c
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't'
        UNION ALL
        SELECT 'pg_proc'::regclass::oid, f.oid, f.proname, f.pronamespace
        FROM pg_proc f
        UNION ALL
        SELECT 'pg_operator'::regclass::oid, o.oid, o.oprname, o.oprnamespace
        FROM pg_operator o
        UNION ALL
        SELECT 'pg_type'::regclass::oid, y.oid, y.typname, y.typnamespace
        FROM pg_type y
        WHERE y.typtype = 'd'
    ) AS thing(class, oid, name, namespace)
    WHERE thing.namespace <> ALL ('{{pg_catalog,information_schema}}'::regnamespace[])
),
-- Twice over, since each thing is to be looked at once: all that any policy leads to, and then which leads to which.
reached AS (
    SELECT 'pg_policy'::regclass::oid AS class, policy AS oid
    FROM to_judge
    UNION
    SELECT next.class, next.oid
    FROM reached AS here CROSS JOIN LATERAL ({leads_to}) AS next
),
links AS MATERIALIZED (
    SELECT here.class AS from_class, here.oid AS from_oid, next.class, next.oid
    FROM reached AS here CROSS JOIN LATERAL ({leads_to}) AS next
),
-- That a policy names columns of its own table leads nowhere.
led AS (
    SELECT policy, own, 'pg_policy'::regclass::oid AS class, policy AS oid
    FROM to_judge
    UNION
    SELECT led.policy, led.own, links.class, links.oid
    FROM led
    JOIN links ON links.from_class = led.class AND links.from_oid = led.oid
    WHERE led.oid <> led.policy OR (links.class, links.oid) <> ('pg_class'::regclass, led.own)
),
-- Whose rights a role has. Readers do with them what they may with whatever a policy leads to; owners of views and of some
-- functions lend them to whoever uses these.
powers AS MATERIALIZED (
    SELECT r.oid, concat_ws(' ', 'role', r.oid, r.rolsuper, r.rolbypassrls, string_agg(concat_ws(' ', quote_ident(g.rolname), pg_has_role(r.oid, g.oid, 'USAGE')), ',' ORDER BY g.rolname COLLATE "C")) AS fact
    FROM pg_roles r
    JOIN pg_roles g ON pg_has_role(r.oid, g.oid, 'MEMBER')
    WHERE r.oid IN (SELECT oid FROM readers WHERE name IS NOT NULL)
        OR r.oid IN (SELECT relowner FROM pg_class WHERE relkind IN ('v', 'm') AND oid >= 16384)
        OR r.oid IN (SELECT proowner FROM pg_proc WHERE prosecdef AND oid >= 16384)
    GROUP BY r.oid, r.rolsuper, r.rolbypassrls
),
facts AS MATERIALIZED (
    SELECT 'pg_class'::regclass::oid AS class, c.oid, concat_ws(' ', 'table', c.oid, n.nspacl::text, c.relacl::text, c.relowner,
        c.relrowsecurity, c.relforcerowsecurity, CASE WHEN c.relkind IN ('v', 'm') THEN concat_ws(' ', c.reloptions::text, owner.fact) END,
        (SELECT string_agg(concat_ws(' ', a.attnum, a.attacl::text), ' ' ORDER BY a.attnum)
         FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL)) AS fact
    FROM named
    JOIN pg_class c ON named.class = 'pg_class'::regclass AND c.oid = named.oid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN powers owner ON owner.oid = c.relowner
    UNION ALL
    SELECT 'pg_policy'::regclass, p.oid, concat_ws(' ', 'policy', p.oid, p.xmin, (
        -- Whom of the readers it is about: who is a member of whom.
        SELECT string_agg(quote_ident(r.name), ' ' ORDER BY r.name COLLATE "C")
        FROM readers r
        WHERE EXISTS (
            SELECT FROM unnest(p.polroles) AS meant(oid)
            WHERE meant.oid <> 0 AND pg_has_role(r.oid, meant.oid, 'USAGE'))))
    FROM pg_policy p
    UNION ALL
    SELECT 'pg_rewrite'::regclass, w.oid, concat_ws(' ', 'rule', w.oid, w.xmin)
    FROM named
    JOIN pg_rewrite w ON named.class = 'pg_class'::regclass AND w.ev_class = named.oid
    UNION ALL
    -- Names too: policies are printed once, and what is printed calls things by names.
    SELECT 'pg_proc'::regclass, f.oid, concat_ws(' ', 'function', f.oid, f.xmin, quote_ident(n.nspname), n.nspacl::text, quote_ident(f.proname),
        CASE WHEN f.prosecdef THEN owner.fact END)
    FROM named
    JOIN pg_proc f ON named.class = 'pg_proc'::regclass AND f.oid = named.oid
    JOIN pg_namespace n ON n.oid = f.pronamespace
    LEFT JOIN powers owner ON owner.oid = f.proowner
    UNION ALL
    SELECT 'pg_type'::regclass, c.contypid, concat_ws(' ', 'domain', c.contypid, string_agg(concat_ws(' ', c.oid, c.xmin), ' ' ORDER BY c.oid))
    FROM pg_constraint c
    WHERE c.contypid <> 0
    GROUP BY c.contypid
),
-- Once: the planner, who does not know how much it is, would do it again for each policy.
dependencies AS MATERIALIZED (
    SELECT policy, md5(string_agg(fact, ',' ORDER BY fact COLLATE "C")) AS digest
    FROM (
        SELECT led.policy, facts.fact
        FROM led
        JOIN facts ON (facts.class, facts.oid) = (led.class, led.oid)
        WHERE (led.class, led.oid) <> ('pg_policy'::regclass, led.policy)
        UNION ALL
        SELECT led.policy, everything.fact
        FROM led
        JOIN (SELECT md5(string_agg(fact, ',' ORDER BY fact COLLATE "C")) FROM facts) AS everything(fact) ON led.class = 0
        UNION ALL
        SELECT r.policy, powers.fact
        FROM to_judge r
        CROSS JOIN readers
        JOIN powers ON powers.oid = readers.oid AND readers.name IS NOT NULL
        UNION ALL
        SELECT r.policy, concat_ws(' ', 'named', d.refobjid, d.refobjsubid, quote_ident(c.relname), n.xmin, quote_ident(n.nspname), a.xmin, quote_ident(a.attname))
        FROM to_judge r
        JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = r.policy AND d.refclassid = 'pg_class'::regclass
        JOIN pg_class c ON c.oid = d.refobjid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        UNION ALL
        SELECT r.policy, concat_ws(' ', 'type', y.oid, quote_ident(n.nspname), quote_ident(y.typname), (
            SELECT string_agg(concat_ws(' ', e.oid, quote_ident(e.enumlabel)), ' ' ORDER BY e.oid)
            FROM pg_enum e
            WHERE e.enumtypid IN (y.oid, y.typelem, y.typbasetype)))
        FROM to_judge r
        JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = r.policy AND d.refclassid = 'pg_type'::regclass
        JOIN pg_type y ON y.oid = d.refobjid
        JOIN pg_namespace n ON n.oid = y.typnamespace
        UNION ALL
        SELECT r.policy, concat_ws(' ', 'operator', o.oid, quote_ident(n.nspname), o.oprname)
        FROM to_judge r
        JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = r.policy AND d.refclassid = 'pg_operator'::regclass
        JOIN pg_operator o ON o.oid = d.refobjid
        JOIN pg_namespace n ON n.oid = o.oprnamespace
    ) AS all_facts
    GROUP BY policy
)
