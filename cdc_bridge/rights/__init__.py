"""Who may see what, as the database says it, and how much of that memory can judge."""
