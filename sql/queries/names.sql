-- Until the transaction ends names mean what they mean to a new connection of ours, after PostgreSQL's own; rights.md says how that
-- is made the application's. What is prepared before the eyes are opened (look_through.sql) has to be prepared so, or it is
-- parsed anew, by whoever asks.
SELECT set_config('search_path', current_setting('cdc_bridge.search_path'), true)
