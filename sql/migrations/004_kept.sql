-- Whether what is started writes the changes that keep() has kept. The table is part of no publication, in which rows of a
-- table without a key could not be deleted.
-- Lock: ACCESS EXCLUSIVE on our own table errand, into which few writers write.
ALTER TABLE {cdc}.errand ADD COLUMN IF NOT EXISTS is_kept boolean NOT NULL DEFAULT false;
ALTER TABLE {cdc}.errand SET UNLOGGED;
