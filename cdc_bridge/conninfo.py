"""Connection strings, how not to show the secret in one, and the names that our connections go by.

`mask` is for any text that is about to be shown: our own messages, log lines, what libpq answers. It knows
how a password looks in a URL and in `key=value` form; a caller that knows the connection string passes it
too, and its password is then masked wherever it stands.
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote

LISTEN = "cdc_bridge listen"
HEARTBEAT = "cdc_bridge heartbeat"
READ = "cdc_bridge read"
REPAIR = "cdc_bridge repair"
"""The `application_name` of each session of a bridge, by which a person and `queries/listeners` tell them apart."""

MASK = "****"
_SECRET_KEYS = ("password", "sslpassword", "oauth_client_secret")

_IN_URL = re.compile(r"(?P<before>\b[a-z][a-z0-9+.-]*://[^\s:/?#@]*:)(?P<secret>\S+)(?=@)", re.IGNORECASE)
_AS_KEY = re.compile(
    rf"(?P<before>(?:{'|'.join(_SECRET_KEYS)})\s*=\s*)(?P<secret>'(?:[^'\\]|\\.)*'?|[^\s&'\"]+)",
    re.IGNORECASE,
)


def of_command(command: str) -> str:
    """The `application_name` of a command's session."""
    return f"cdc-bridge {command}"


def mask(text: str, dsn: str = "") -> str:
    """`text` without any password that can be recognised in it, and without the password of `dsn`."""
    # The known password first: once the forms below are masked, a part of it could stay behind.
    for secret in sorted(_secrets(dsn), key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = _IN_URL.sub(rf"\g<before>{MASK}", text)
    return _AS_KEY.sub(rf"\g<before>{MASK}", text)


def is_conninfo(dsn: str) -> bool:
    """Whether libpq can read it. What libpq says otherwise is not kept, since it quotes the text."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        conninfo_to_dict(dsn)
    except ProgrammingError:
        return False
    return True


def server(dsn: str) -> str:
    """Where the connection string leads: `127.0.0.1:5432/shop`, as far as it and libpq's variables say."""
    from psycopg.conninfo import conninfo_to_dict

    parts = conninfo_to_dict(dsn)
    host = parts.get("host") or parts.get("hostaddr") or os.environ.get("PGHOST") or "the local server"
    port = parts.get("port") or os.environ.get("PGPORT")
    database = parts.get("dbname") or os.environ.get("PGDATABASE")
    return f"{host}{f':{port}' if port else ''}{f'/{database}' if database else ''}"


def _secrets(dsn: str) -> set[str]:
    """The passwords that a connection with `dsn` would use, as they are and as a URL writes them."""
    found = {os.environ.get("PGPASSWORD", "")}
    if dsn and is_conninfo(dsn):
        from psycopg.conninfo import conninfo_to_dict

        parts = conninfo_to_dict(dsn)
        found |= {str(parts.get(key) or "") for key in _SECRET_KEYS}
    # One or two characters occur in every text; to mask them everywhere would only tell what they are.
    plain = {secret for secret in found if len(secret) > 2}
    return plain | {quote(secret, safe="") for secret in plain} | {unquote(secret) for secret in plain}
