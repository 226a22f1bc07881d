"""Facts and values: what a change, a catalog, a filter, a subscription and an error are."""
