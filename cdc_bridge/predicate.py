"""A filter as a function that judges one image of a row."""
