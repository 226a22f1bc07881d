"""The sidecar image, built and run by a real engine."""
