"""The operator's commands for a database: attach, detach, status, retention, roles."""
