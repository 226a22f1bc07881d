"""Find what is wrong with a database and its bridges, and change nothing."""
