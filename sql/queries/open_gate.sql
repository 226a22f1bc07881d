-- Let writers notify. NULL where the operator has decided that nobody does.
SELECT {cdc}.open_gate(%(lease_s)s)
