"""The pages for users (README.md, docs/): the site that they make, and their fenced blocks."""
