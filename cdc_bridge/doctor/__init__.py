"""What can be wrong with a database and its bridges, looked for without changing anything."""
