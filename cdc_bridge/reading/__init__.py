"""What is read from the tables: initial data, and what memory cannot decide about changes. Adapters of `ports`."""
