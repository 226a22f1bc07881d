"""The chart and the manifest of deploy/, rendered and checked without a cluster."""
