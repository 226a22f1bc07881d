"""Explain why a client got a change of one row, or did not: with the parts that a bridge is made of, and read-only."""
