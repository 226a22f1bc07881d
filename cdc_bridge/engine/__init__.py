"""The consumer of the change stream: matching, topics, subscribers, and the reads that they wait for."""
