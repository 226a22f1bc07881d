"""Parse clients' queries, and evaluate filters in memory."""
