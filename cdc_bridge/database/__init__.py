"""Everything that asks PostgreSQL on behalf of clients: snapshots, evaluation, the catalog."""
