"""The metrics that a bridge shows at /metrics."""
