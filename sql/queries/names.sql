-- Until the transaction ends names mean what they mean to the application, after PostgreSQL's own. What is prepared before the
-- eyes are opened (look_through.sql) has to be prepared so, or it is parsed anew, by whoever asks.
SELECT set_config('search_path', current_setting('cdc_bridge.search_path'), true)
