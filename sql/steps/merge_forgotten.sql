-- Of what was forgotten make one row of all that need not be told apart any more.
SELECT {cdc}.merge_forgotten()
