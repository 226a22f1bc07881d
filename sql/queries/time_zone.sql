-- In which time zone this session would reckon if it were not set to UTC, see session.sql.
SELECT reset_val FROM pg_settings WHERE name = 'TimeZone'
