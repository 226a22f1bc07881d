"""Checks of the server, of the way to it, and of this machine; they need nothing of ours in the database."""

import asyncio
import datetime
import shutil
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from psycopg import errors

from cdc_bridge.admin.mode import STANDBY, Mode
from cdc_bridge.admin.plan import check_connection
from cdc_bridge.admin.problems import Finding
from cdc_bridge.capture.connection import Connector
from cdc_bridge.doctor.context import MAY_SEE, Context, unknown
from cdc_bridge.model.errors import DatabaseError, LockHolder, SharedSession
from cdc_bridge.server.limits import is_loopback
from cdc_bridge.statements import Connection, statement

CLOCK_SKEW_S = 2.0
QUEUE_USAGE_MAX = 0.1
CERTIFICATE_DAYS = 14
FREE_SHARE_MIN = 0.05


def old_version(conn: Connection) -> Finding | None:
    """Return what is wrong with the version of the server; nothing else can be looked at then."""
    try:
        check_connection(conn)
    except DatabaseError as error:
        sentence, _, remedy = str(error).rpartition(": ")
        return Finding("server-version", conn.info.host, sentence, remedy)
    return None


def check_pooler(conn: Connection, context: Context) -> Iterator[Finding]:
    """Find out as bridges do, before anything is set."""
    host = conn.info.host
    try:
        asyncio.run(_connect_as_a_bridge(context))
    except SharedSession as error:
        sentence, _, remedy = str(error).partition(": ")
        yield Finding("pooler", host, sentence, remedy)


async def _connect_as_a_bridge(context: Context) -> None:
    """Raises `SharedSession`."""
    connector = Connector(context.settings.conninfo, context.settings.connect_timeout_s)
    async with await connector.connect("cdc-bridge doctor"):
        pass


def check_clock(conn: Connection, context: Context) -> Iterator[Finding]:
    before_s = context.now()
    [(server_s,)] = conn.execute(statement("queries/doctor_clock"))
    after_s = context.now()
    skew_s = max(before_s - server_s, server_s - after_s)
    if skew_s > CLOCK_SKEW_S:
        yield Finding(
            "clock-skew",
            conn.info.host,
            f"the clocks of this machine and of the database's differ by {skew_s:.0f} s, so $NOW in filters and the"
            " times in tokens do not mean the same on both",
            "let NTP set both",
        )


def check_standby(conn: Connection, context: Context) -> Iterator[Finding]:
    if "yes" not in STANDBY.all(conn):
        return
    host = conn.info.host
    sentence = "this is a hot standby: a bridge can read from it, and nothing can be installed, mended or pruned here"
    yield Finding("standby", host, sentence, "run attach, detach and prune on the primary")
    [(is_paused,)] = conn.execute(statement("queries/doctor_paused"))
    if is_paused:
        sentence = "replay is paused on this hot standby, so no change arrives"
        yield Finding("standby-paused", host, sentence, "SELECT pg_wal_replay_resume()")
    for tree in context.attached:
        if tree.mode is Mode.LIVE:
            table = str(tree.root.relation)
            sentence = f"{table} is in the mode live, which a hot standby cannot serve"
            yield Finding("standby-live", table, sentence, "attach it with --mode durable on the primary")


def check_publications(conn: Connection, context: Context) -> Iterator[Finding]:
    for (name,) in conn.execute(statement("queries/doctor_replicated"), {"schema": context.schema}):
        yield Finding(
            "log-replicated",
            name,
            f"the subscription {name} writes the publisher's change log into this one, so clients that resume receive"
            " changes twice, and old ones after new ones",
            "run `detach --all --purge` here, and attach again; it leaves out tables that were made later",
        )
    for name, _ in conn.execute(statement("queries/published")):
        yield Finding(
            "published",
            name,
            f"the publication {name} is FOR ALL TABLES, so for the change log too: subscribers stop at our tables"
            " unless they have them, and receive each change twice",
            "replicate a publication FOR TABLES IN SCHEMA instead",
        )


def check_transactions(conn: Connection, context: Context) -> Iterator[Finding]:
    """Find transactions with an id that have been going on for long: positions of clients cannot go past them."""
    hidden = []
    for pid, database, user, name, state, held_s, query_start in conn.execute(statement("queries/doctor_transactions")):
        if held_s is None:
            hidden.append(pid)
        elif held_s >= context.long_s:
            yield Finding(
                "long-transaction",
                f"process {pid}",
                f"{LockHolder(pid, name, held_s)} (database {database}, role {user}, {state}, last statement at"
                f" {query_start}), so cursors grow and the log cannot be emptied where it has written",
                f"let it end, or SELECT pg_terminate_backend({pid})",
            )
    if hidden:
        reason = f"how long {len(hidden)} transactions of other roles have been going on"
        yield unknown("transactions", reason, MAY_SEE)
    for gid, owner, database, held_s in conn.execute(statement("queries/doctor_prepared")):
        if held_s >= context.long_s:
            holder = LockHolder(None, None, held_s, gid, owner)
            sentence, _, remedy = str(holder).partition(": ")
            sentence = f"{sentence} (database {database}), keeps cursors and the log from going on"
            yield Finding("prepared-transaction", gid, sentence, remedy)


def check_queue(conn: Connection, context: Context) -> Iterator[Finding]:
    del context
    [(usage,)] = conn.execute(statement("queries/doctor_queue"))
    if usage > QUEUE_USAGE_MAX:
        yield Finding(
            "notify-queue",
            conn.info.host,
            f"the queue of notifications, which all databases of the server share, is {usage:.0%} full, since a session"
            " that listens is in a transaction, or does not read",
            "end that session: of those in pg_stat_activity with LISTEN as their last statement, the one with the"
            " oldest xact_start",
        )


def check_certificate(conn: Connection, context: Context) -> Iterator[Finding]:
    """Look at the certificate that the bridge would show."""
    del conn
    path = context.settings.tls_certificate
    if not path:
        return
    try:
        ends = x509.load_pem_x509_certificate(Path(path).read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no certificate in PEM"
        yield Finding("certificate", path, f"{path} cannot be read: {reason}", "set tls_certificate")
        return
    left = ends - datetime.datetime.fromtimestamp(context.now(), datetime.UTC)
    if left < datetime.timedelta(days=CERTIFICATE_DAYS):
        ended = "has ended" if left < datetime.timedelta() else "ends"
        sentence = f"the certificate {path} {ended} on {ends:%Y-%m-%d}"
        yield Finding("certificate", path, sentence, "renew it, and send SIGHUP to the bridge")


def check_disk(conn: Connection, context: Context) -> Iterator[Finding]:
    """Look at the disk with the data, where the server runs on this machine."""
    host = conn.info.host
    if not (host.startswith("/") or is_loopback(host)):
        yield unknown("disk", "the database is on another machine", "watch its disk there")
        return
    try:
        [(folder,)] = conn.execute(statement("queries/doctor_data_directory"))
        room = shutil.disk_usage(folder)
    except errors.InsufficientPrivilege:
        yield unknown("disk", "this role may not see where the data are", MAY_SEE)
        return
    except OSError:
        yield unknown("disk", "the data are not on this machine", "watch the disk where they are")
        return
    if room.free < max(FREE_SHARE_MIN * room.total, context.settings.retention_bytes):
        yield Finding(
            "disk-space",
            folder,
            f"{room.free / 2**20:,.0f} MB of {room.total / 2**20:,.0f} MB are free where the database has its data; the"
            " change log may grow to retention_bytes, and changes are gaps on a full disk",
            "make room, or lower retention_bytes",
        )
