-- Decide for all bridges whether anything notifies.
SELECT {cdc}.record_notify({value})
