-- The settings of the sessions that listen and that send heartbeats: no server ends them for being quiet, and when we are
-- gone without a word, it notices within some ten seconds, before what it keeps for us fills its queue. Once a session.
SELECT wanted.name, pg_catalog.set_config(wanted.name, wanted.setting, false)
FROM (
    VALUES
        ('search_path', 'pg_catalog, pg_temp'),
        -- Else what we read would make the application's transactions fail where SERIALIZABLE is the default.
        ('default_transaction_isolation', 'read committed'),
        ('statement_timeout', '0'),
        ('transaction_timeout', '0'),
        ('idle_in_transaction_session_timeout', '0'),
        ('idle_session_timeout', '0'),
        ('tcp_keepalives_idle', '5'),
        ('tcp_keepalives_interval', '2'),
        ('tcp_keepalives_count', '3'),
        ('tcp_user_timeout', '10s')
) AS wanted(name, setting)
-- transaction_timeout came with PostgreSQL 17.
WHERE pg_catalog.current_setting(wanted.name, true) IS NOT NULL
