-- The settings of a session that reads for a bridge. Values as capture() renders them, money by the locale that capture()
-- was installed under (where it is), names that mean PostgreSQL's own, and no jit, see catalog_settings. Row-level security
-- applies, as it does to the stream, see access.sql. No lock is waited for longer than somebody who asks
-- for data, and those behind him, should wait; nothing is left open that keeps old rows alive; and when we are gone
-- without a word, the server notices, whatever it says of its own sessions (see listener_session). Once a session, under whatever
-- search_path the role has, so PostgreSQL's own is named in full.
SELECT wanted.name, pg_catalog.set_config(wanted.name, wanted.setting, false)
FROM (
    VALUES
        ('search_path', 'pg_catalog, pg_temp'),
        -- Else what we read would make the application's transactions fail where SERIALIZABLE is the default.
        ('default_transaction_isolation', 'read committed'),
        ('TimeZone', 'UTC'),
        ('DateStyle', 'ISO, YMD'),
        ('IntervalStyle', 'iso_8601'),
        ('bytea_output', 'hex'),
        ('extra_float_digits', '1'),
        ('quote_all_identifiers', 'off'),
        ('jit', 'off'),
        ('row_security', 'on'),
        ('lock_timeout', '1s'),
        ('transaction_timeout', '60s'),
        ('idle_in_transaction_session_timeout', '60s'),
        ('idle_session_timeout', '0'),
        ('tcp_keepalives_idle', '5'),
        ('tcp_keepalives_interval', '2'),
        ('tcp_keepalives_count', '3'),
        ('tcp_user_timeout', '10s')
    UNION ALL
    -- For those whose eyes are opened: where a new connection of ours looks for names, as functions of policies were written for.
    SELECT 'cdc_bridge.search_path', pg_catalog.concat_ws(', ', 'pg_catalog',
        CASE WHEN s.reset_val OPERATOR(pg_catalog.<>) '' THEN s.reset_val END, 'pg_temp')
    FROM pg_catalog.pg_settings s
    WHERE s.name OPERATOR(pg_catalog.=) 'search_path'
    UNION ALL
    SELECT 'lc_monetary', pg_catalog.split_part(config.setting, '=', 2)
    FROM pg_catalog.pg_namespace n
    JOIN pg_catalog.pg_proc p ON p.pronamespace OPERATOR(pg_catalog.=) n.oid AND p.proname OPERATOR(pg_catalog.=) 'capture'
    CROSS JOIN LATERAL pg_catalog.unnest(p.proconfig) AS config(setting)
    WHERE n.nspname OPERATOR(pg_catalog.=) %(schema)s AND pg_catalog.starts_with(config.setting, 'lc_monetary=')
) AS wanted(name, setting)
-- transaction_timeout came with PostgreSQL 17; ours is not there before it is set.
WHERE wanted.name OPERATOR(pg_catalog.=) 'cdc_bridge.search_path' OR pg_catalog.current_setting(wanted.name, true) IS NOT NULL
