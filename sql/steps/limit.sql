-- Wait for no lock for longer than this.
SET LOCAL lock_timeout = {limit}
