"""Connection strings, how not to show the secret in one, and the names that our connections go by.

`mask` is for any text that is about to be shown: our own messages, log lines, what libpq answers. It knows
how a password looks in a URL and in `key=value` form; a caller that knows the connection string passes it
too, and its password is then masked wherever it stands.
"""

import difflib
import os
import re
from contextlib import suppress
from urllib.parse import quote, unquote

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

LISTEN = "cdc_bridge listen"
HEARTBEAT = "cdc_bridge heartbeat"
READ = "cdc_bridge read"
REPAIR = "cdc_bridge repair"
PRUNE = "cdc_bridge prune"
CANARY = "cdc_bridge canary"
"""The `application_name` of each session of a bridge, by which a person and `queries/listeners` tell them apart.

The session that sends heartbeats adds the version and how far behind the bridge is, see `heartbeat_name`.
"""

MASK = "****"
_SECRET_KEYS = ("password", "sslpassword", "oauth_client_secret", "access_token")

_IN_URL = re.compile(r"(?P<before>\b[a-z][a-z0-9+.-]*://[^\s:/?#@]*:)(?P<secret>\S+)(?=@)", re.IGNORECASE)
_AS_KEY = re.compile(
    rf"(?P<before>(?:{'|'.join(_SECRET_KEYS)})\s*=\s*)(?P<secret>'(?:[^'\\]|\\.)*'?|[^\s&'\"]+)",
    re.IGNORECASE,
)


_URL = re.compile(r"postgres(?:ql)?://")
_UNKNOWN_OPTION = re.compile(r'invalid (?:connection option|URI query parameter:) "([A-Za-z_]+)"')
_ENCODE = "in a URL a password with @ : / or % has to be percent-encoded (@ is %40)"


def heartbeat_name(version: str, behind_s: float) -> str:
    """Return the `application_name` by which a bridge tells its version, and how far it is behind the database."""
    return f"{HEARTBEAT} {version} {behind_s:.0f} s behind"


def mask(text: str, dsn: str = "") -> str:
    """`text` without any password that can be recognised in it, and without the password of `dsn`."""
    # The known password first: once the forms below are masked, a part of it could stay behind.
    for secret in sorted(_secrets(dsn), key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = _IN_URL.sub(rf"\g<before>{MASK}", text)
    return _AS_KEY.sub(rf"\g<before>{MASK}", text)


def fault(dsn: str) -> str:
    """Return what is wrong with a connection string, without its values; empty if nothing is.

    libpq takes `u:p@ss@host` for the host `ss@host`, and `u:p/ss@host` for the port `p`, and says so to everybody.
    """
    if _URL.match(dsn):
        authority, _, path = dsn.partition("://")[2].partition("?")[0].partition("/")
        if authority.count("@") > 1 or "@" in path:
            return _ENCODE
    try:
        parts = conninfo_to_dict(dsn)
    except ProgrammingError as error:
        return _unreadable(dsn, str(error))
    if "@" in str(parts.get("host", "")):
        return _ENCODE
    ports = str(parts.get("port") or "").split(",")
    if not all(port == "" or (port.isdecimal() and 0 < int(port) < 65536) for port in map(str.strip, ports)):
        return "its port is no number from 1 to 65535" + (f"; {_ENCODE}" if "://" in dsn else "")
    return ""


def _unreadable(dsn: str, complaint: str) -> str:
    """Libpq quotes the text; of that only the name of an option may be shown, where it cannot be part of a password."""
    is_url = bool(_URL.match(dsn))
    if unknown := _UNKNOWN_OPTION.search(complaint):
        before, _, after = dsn.partition("?") if is_url else dsn.partition(unknown[1])
        is_doubtful = ("@" in after and "@" not in before) if is_url else _AS_KEY.search(before)
        options = [option.keyword.decode() for option in Conninfo.get_defaults()]
        if near := difflib.get_close_matches(unknown[1], options, n=1):
            return f'libpq knows no option "{unknown[1]}"; did you mean {near[0]}?'
        if not is_doubtful:
            return f'libpq knows no option "{unknown[1]}"'
    return "libpq cannot read it; " + (_ENCODE if is_url else "a value with a space in it needs 'quotes'")


def server(dsn: str) -> str:
    """Return where the connection string leads, `127.0.0.1:5432/shop`, as far as it and libpq's variables say."""
    if fault(dsn):
        return "the server of the connection string"
    parts = conninfo_to_dict(dsn)
    host = parts.get("host") or parts.get("hostaddr") or os.environ.get("PGHOST") or "the local server"
    port = parts.get("port") or os.environ.get("PGPORT")
    database = parts.get("dbname") or os.environ.get("PGDATABASE")
    return f"{host}{f':{port}' if port else ''}{f'/{database}' if database else ''}"


def _secrets(dsn: str) -> set[str]:
    """The passwords that a connection with `dsn` would use, as they are and as a URL writes them."""
    found = {os.environ.get("PGPASSWORD", "")}
    if _URL.match(dsn) and fault(dsn):
        userinfo = dsn.partition("://")[2].rpartition("@")[0].partition(":")[2]
        found |= {userinfo, *re.split(r"[@:/?]", userinfo)}
    with suppress(ProgrammingError):  # which quotes the text, so it is not shown
        parts = conninfo_to_dict(dsn)
        found |= {str(parts.get(key) or "") for key in _SECRET_KEYS}
    # One or two characters occur in every text; to mask them everywhere would only tell what they are.
    plain = {secret for secret in found if len(secret) > 2}
    return plain | {quote(secret, safe="") for secret in plain} | {unquote(secret) for secret in plain}
