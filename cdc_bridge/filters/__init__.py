"""What filters say of rows, and who is right about a row without asking the database."""
