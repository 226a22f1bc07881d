"""From a client's query to values, and its filters judged in memory."""
