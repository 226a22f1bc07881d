-- Whether anything notifies in this database, as the operator has decided.
SELECT value FROM {cdc}.setting WHERE name = 'notify'
