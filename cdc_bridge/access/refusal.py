"""Why a token is not accepted: for the operator's log, never for the client, and without a word of the token."""

from __future__ import annotations


class Refused(Exception):
    """A token proves nothing. The text says why."""
