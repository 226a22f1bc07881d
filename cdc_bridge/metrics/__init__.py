"""What a bridge shows of itself at /metrics."""
