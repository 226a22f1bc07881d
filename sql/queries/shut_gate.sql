-- Let writers notify no longer.
SELECT {cdc}.shut_gate()
