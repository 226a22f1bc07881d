"""Figures about the bridge, from runs on servers of our own: `make bench`. Nothing is asserted."""
