-- What begin_era() says, on a hot standby.
SELECT token, seal_key FROM {cdc}.standby_era()
