-- Let all bridges know that something was not told.
SELECT {cdc}.mark_gap()
