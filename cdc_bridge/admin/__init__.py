"""What an operator does to a database: attach, detach, status, retention, roles."""
