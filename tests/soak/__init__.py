"""One bridge under mixed load for as long as you like: nothing is lost, and nothing grows."""
