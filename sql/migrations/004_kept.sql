-- Whether what is started writes the changes that keep() has kept.
ALTER TABLE {cdc}.errand ADD COLUMN IF NOT EXISTS is_kept boolean NOT NULL DEFAULT false;
