"""From a client's `query` to a `Query`: everything is checked here, nothing is ignored."""
