-- The settings of a session that reads for a bridge: values as capture() renders them, money by the locale that capture()
-- was installed under (where it is), names that mean PostgreSQL's own, and no jit, see catalog_settings. Once a session.
SELECT wanted.name, pg_catalog.set_config(wanted.name, wanted.setting, false)
FROM (
    VALUES
        ('search_path', 'pg_catalog, pg_temp'),
        ('TimeZone', 'UTC'),
        ('DateStyle', 'ISO, YMD'),
        ('IntervalStyle', 'iso_8601'),
        ('bytea_output', 'hex'),
        ('extra_float_digits', '1'),
        ('quote_all_identifiers', 'off'),
        ('jit', 'off')
    UNION ALL
    SELECT 'lc_monetary', pg_catalog.split_part(config.setting, '=', 2)
    FROM pg_catalog.pg_namespace n
    JOIN pg_catalog.pg_proc p ON p.pronamespace = n.oid AND p.proname = 'capture'
    CROSS JOIN LATERAL pg_catalog.unnest(p.proconfig) AS config(setting)
    WHERE n.nspname = %(schema)s AND pg_catalog.starts_with(config.setting, 'lc_monetary=')
) AS wanted(name, setting)
