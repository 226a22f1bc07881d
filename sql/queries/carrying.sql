-- Part of catalog and fingerprint: the tables that carry triggers of ours, whatever a former partition still carries
-- left aside, with the triggers' arguments in hex.
SELECT t.tgrelid AS oid, min(encode(t.tgargs, 'hex')) AS arguments
    FROM pg_trigger t
    WHERE t.tgfoid IN (to_regprocedure('{cdc}.capture()'), to_regprocedure('{cdc}.capture_row()'))
      AND NOT starts_with(t.tgname, %(partition_prefix)s)
    GROUP BY t.tgrelid
