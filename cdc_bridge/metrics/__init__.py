"""The metrics that a bridge shows at /metrics, and the traces that it sends."""
