"""What runs between the database, the clients and the hub. No locks: the hub changes between two awaits."""
