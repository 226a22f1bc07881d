"""What deploy/ has for Kubernetes: a chart and a manifest, rendered and checked without a cluster."""
