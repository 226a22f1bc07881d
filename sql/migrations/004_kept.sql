-- Whether what is started writes the changes that keep() has kept. The table is part of no publication, in which rows of a
-- table without a key could not be deleted. `forgotten` is in those of all tables, since standbys read it, so it has an
-- identity.
-- Lock: ACCESS EXCLUSIVE on our own tables errand, into which few writers write, and forgotten, which bridges read.
ALTER TABLE {cdc}.errand ADD COLUMN IF NOT EXISTS is_kept boolean NOT NULL DEFAULT false;
ALTER TABLE {cdc}.errand SET UNLOGGED;
ALTER TABLE {cdc}.forgotten REPLICA IDENTITY FULL;
