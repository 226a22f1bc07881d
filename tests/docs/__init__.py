"""The pages for users (docs/, README.md and its neighbours): the site that they make, and their fenced blocks.

What a writer of a page has to know:

- A block has a language of `CHECKS` in `checks.py`, which says what is checked; output and pseudo-code are `text`.
- `sh`: each `cdc-bridge` is given to the real command line, which takes its options and arguments or refuses them. The
  commands of pages in `WALKS` (`test_walks.py`) are run, and those of pages with a test of their own (`test_readme.py`,
  `test_tutorial.py`).
- `sql` of a page is run from top to bottom, by a superuser, beside the tables and roles of `test_sql.py`; a table that
  the page creates itself is not there before.
- `toml` is settings, unless its first line is a comment with the name of another file (`# pyproject.toml`).
- `nginx` and `haproxy` may be a part, such as a `location`; certificates are replaced by one that is there. Upstreams
  are addresses, since names are looked up.
- `json` is one value, or one a line. Messages have to be valid by the AsyncAPI document, and those of clients are
  parsed as the bridge does; so are the lines of a dialogue in `text`, `-> {...}` and `<- {...}`.
- Reference pages have tables that `make reference` writes.
"""
