"""The subscriptions that a change may concern, found among very many."""
