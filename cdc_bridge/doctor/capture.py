"""Checks of what is ours in the database: schema, rights, triggers, tables, the log, and the bridges."""

from collections.abc import Iterator
from contextlib import suppress

from psycopg import errors, sql

from cdc_bridge import __version__
from cdc_bridge.admin import retention
from cdc_bridge.admin.migrations import require_installed
from cdc_bridge.admin.mode import Mode, Notify, read_notify
from cdc_bridge.admin.problems import (
    Finding,
    capture_problems,
    check_table,
    closed_log,
    former_partitions,
    log_problems,
    lost_tables,
    notify_off_live,
    unknown_version,
)
from cdc_bridge.admin.retention import PARTS, RING, Log, read_log
from cdc_bridge.admin.roles import lacks
from cdc_bridge.admin.status import read_bridges, read_listeners
from cdc_bridge.admin.tables import Table, read_trees
from cdc_bridge.doctor.context import MAY_SEE, Context, unknown
from cdc_bridge.model.errors import AttachError, DatabaseError, NotInstalled, NotOwner, SchemaClosed
from cdc_bridge.statements import VERSION, Connection, statement

ROW_BYTES_MAX = 8000
"""A notification has room for no more."""

WRITE_MS = 0.03
"""The time that capture adds to a write of one row, see `docs/topics/capture.md`."""

OVERHEAD_SHARE_MAX = 0.1
WRITES_PER_S_MAX = 300.0
LOG_ROWS_MIN = 1000

LAG_S_MAX = 5
SILENT_S_MAX = 15.0


def check_schema(conn: Connection, context: Context) -> Iterator[Finding]:
    """Look whether our SQL is there and fits this program, and read the tables for the checks that follow."""
    schema = context.schema
    try:
        there = context.installed = require_installed(conn, schema)
    except DatabaseError as error:
        sentence, _, remedy = str(error).rpartition(": ")
        found = "not-installed" if isinstance(error, NotInstalled) else "schema-not-ours"
        yield Finding(found, schema, sentence, remedy)
        return
    if not there.is_usable:
        sentence, _, remedy = str(SchemaClosed(conn.info.user, schema, there.owner)).rpartition(": ")
        yield Finding("schema-closed", schema, sentence, remedy)
        return
    context.trees = read_trees(conn, schema)
    if there.version is None:
        yield unknown_version(schema)
    elif there.version != VERSION:
        sentence = f'the schema "{schema}" has version {there.version} of our SQL and this program brings {VERSION}'
        remedy = (
            "use a newer cdc-bridge"
            if there.version > VERSION
            else f'run cdc-bridge upgrade as the role "{there.owner}"'
        )
        yield Finding("sql-version", schema, sentence, remedy)
    for name, owner, is_definer in conn.execute(statement("queries/doctor_functions"), {"schema": schema}):
        fault = f'belongs to the role "{owner}"' if is_definer else "is not SECURITY DEFINER"
        sentence = f"our function {schema}.{name} {fault}, so triggers do not run with the rights that they need"
        change = "SECURITY DEFINER" if not is_definer else f'OWNER TO "{there.owner}"'
        remedy = f"ALTER FUNCTION {schema}.{name}() {change}"
        yield Finding("function-rights", f"{schema}.{name}", sentence, remedy)
    yield from log_problems(schema).all(conn)


def check_rights(conn: Connection, context: Context) -> Iterator[Finding]:
    """Find what the recorded runtime role lacks, and the connected one, which may be another."""
    recorded = lacks(conn, context.schema)
    for lack in recorded:
        sentence, _, remedy = str(lack).rpartition(": ")
        yield Finding("missing-right", lack.what, sentence, remedy)
    connected = lacks(conn, context.schema, of=statement("queries/doctor_connected"))
    if connected and not recorded:
        missing = ", ".join(f"{lack.privilege} on {lack.what}" for lack in connected)
        role = connected[0].role
        sentence = f'the role "{role}", as which this is connected, could not run a bridge: it lacks {missing}'
        yield Finding("missing-right", role, sentence, "connect as the runtime role that cdc-bridge sql --roles makes")


# --- tables and triggers ---


def check_triggers(conn: Connection, context: Context) -> Iterator[Finding]:
    del conn
    settings = context.settings
    for tree in context.attached:
        yield from capture_problems(tree)
        if not (settings.roles or settings.anon_role):
            yield from lost_tables(tree)
    yield from former_partitions(context.trees)


def check_tables(conn: Connection, context: Context) -> Iterator[Finding]:
    """Find tables that cannot be captured, or that cost more, or of which clients can tell less, than others."""
    for tree in context.attached:
        root = tree.root
        name = str(root.relation)
        for table in tree.tables:
            if not (table.foreign_cast or table.has_inheritance) and (reason := _why_not(table)):
                yield Finding("not-capturable", str(table.relation), *reason)
        if not root.key or tree.excluded_names().intersection(root.key):
            sentence = f"clients cannot tell by a key which row of {name} was changed or deleted"
            yield Finding("no-key", name, sentence, "give it a primary key, without excluded columns")
    oids = {table.oid: str(table.relation) for tree in context.attached for table in tree.tables}
    for oid, size in conn.execute(statement("queries/doctor_widths"), {"oids": list(oids)}):
        if size > ROW_BYTES_MAX:
            sentence = f"a row of {oids[oid]} has {size:,} bytes on average, more than a notification has room for"
            remedy = "leave out what clients do not need: attach --exclude-column"
            yield Finding("wide-rows", oids[oid], sentence, remedy)
    parameters = {"schemas": ["public"], "schema": context.schema}
    free = [oid for (oid,) in conn.execute(statement("queries/tables_of_schema"), parameters)]
    known = {tree.root.oid for tree in context.trees}
    for tree in read_trees(conn, context.schema, [oid for oid in free if oid not in known]):
        for table in tree.tables:
            if reason := _why_not(table):
                yield Finding("not-attachable", str(table.relation), *reason)
                break


def _why_not(table: Table) -> tuple[str, str] | None:
    """Return why no role can capture a table, and what to do."""
    try:
        check_table(table)
    except AttachError as error:
        sentence, _, remedy = str(error).rpartition(": ")
        return sentence, remedy
    except NotOwner:
        pass  # another role can
    return None


def check_notify(conn: Connection, context: Context) -> Iterator[Finding]:
    """Look whether what is recorded about notifying goes with the rest."""
    if read_notify(conn, context.schema) is Notify.OFF:
        if live := [str(tree.root.relation) for tree in context.attached if tree.mode is Mode.LIVE]:
            yield notify_off_live(live)
        return
    [(two_phase,)] = conn.execute(statement("queries/doctor_two_phase"))
    if two_phase and context.attached:
        yield Finding(
            "two-phase-commit",
            "max_prepared_transactions",
            f"max_prepared_transactions is {two_phase} and notify is auto: PREPARE TRANSACTION fails in a transaction"
            " that has notified",
            "cdc-bridge attach --notify off, or set max_prepared_transactions to 0",
        )


# --- the log ---


def check_log(conn: Connection, context: Context) -> Iterator[Finding]:
    if context.installed and context.installed.version == 1:
        return
    settings, log = context.settings, read_log(conn, context.schema)
    yield from closed_log(log.closed)
    age_s = log.oldest_age_s or 0
    # The current segment is left after a sixth of the time, and a bridge looks once a minute.
    if age_s > settings.retention_age_s * (1 + 2 / PARTS) + 120:
        sentence = (
            f"the oldest change of the log is {age_s:,.0f} s old; retention_age_s is {settings.retention_age_s:g}"
        )
        yield Finding("log-age", "the change log", sentence, "let a bridge run, or cdc-bridge prune from cron")
    if log.size_bytes > settings.retention_bytes * (1 + 2 / PARTS):
        sentence = f"the change log has {log.size_bytes:,} bytes; retention_bytes is {settings.retention_bytes:,}"
        yield Finding("log-size", "the change log", sentence, "let a bridge run, or cdc-bridge prune from cron")
    yield from _rotation(conn, context, log)
    if locked := sorted(set(range(RING)) - {segment.number for segment in log.segments}):
        yield unknown("log", f"segment {', '.join(map(str, locked))} is locked", "try again when that has ended")
    changed = [number for (number,) in conn.execute(statement("queries/doctor_changed_segments", context.schema))]
    for number in changed:
        name = f"{context.schema}.change_log_{number}"
        sentence = f"{name} was emptied or replaced by hand, so changes may be missing"
        yield Finding(
            "log-emptied", name, sentence, "a bridge or cdc-bridge prune notes it, and clients get fresh data"
        )


def _rotation(conn: Connection, context: Context, log: Log) -> Iterator[Finding]:
    """Find what keeps writers from going on to the next segment, and segments from being emptied."""
    following = (log.current + 1) % RING
    by_number = {segment.number: segment for segment in log.segments}
    is_next_filled = following in by_number and not by_number[following].is_empty
    others = [number for number in range(RING) if number != log.current]
    holders = retention.holders(conn, context.schema, others)
    late = [each for each in holders if each.held_s is not None and each.held_s >= context.long_s]
    name = f"{context.schema}.change_log_{following}"
    if is_next_filled:
        in_the_way = "; ".join(map(str, holders)) or "nobody just now"
        sentence = f"{name}, the next segment of the log, is not empty, so the log cannot go on"
        remedy = f"end what is in the way ({in_the_way}), and run cdc-bridge prune"
        yield Finding("log-rotation", name, sentence, remedy)
    elif late:
        sentence = f"segments of the log cannot be emptied, since they are locked by {'; '.join(map(str, late))}"
        yield Finding("log-locked", "the change log", sentence, "end it, or wait until it has ended")
    if hidden := [str(each) for each in holders if each.held_s is None]:
        yield unknown("log", f"for how long it has been locked by {'; '.join(hidden)}", MAY_SEE)


# --- bridges, and what capture costs ---


def check_bridges(conn: Connection, context: Context) -> Iterator[Finding]:
    """Look at the sessions of bridges: one of each says in its name which version it is and how far behind."""
    if context.attached and not read_listeners(conn):
        yield Finding("no-bridge", context.schema, "no bridge is connected to this database", "run cdc-bridge serve")
    for bridge in read_bridges(conn):
        subject = f"process {bridge.pid}"
        if bridge.version != __version__:
            sentence = f"the bridge of {subject} is version {bridge.version}, and this program is {__version__}"
            yield Finding("bridge-version", subject, sentence, "restart it with the version that is installed")
        if bridge.silent_s is None:
            yield unknown("bridges", f"when the bridge of {subject} last said something", MAY_SEE)
        elif bridge.silent_s > SILENT_S_MAX:
            sentence = f"the bridge of {subject} is connected and has said nothing for {bridge.silent_s:.0f} s"
            yield Finding("bridge-silent", subject, sentence, "look at its log, and restart it")
        if bridge.behind_s > LAG_S_MAX:
            sentence = f"the bridge of {subject} has been behind the database for {bridge.behind_s} s"
            yield Finding("bridge-lag", subject, sentence, "look at its processor time, and at large transactions")


def check_overhead(conn: Connection, context: Context) -> Iterator[Finding]:
    """Estimate what capture takes from writers."""
    log = read_log(conn, context.schema)
    [(writes,)] = conn.execute(statement("queries/doctor_written"), {"schema": context.schema})
    if writes < LOG_ROWS_MIN or not log.oldest_age_s:
        return
    rate = writes / log.oldest_age_s
    sentence = f"the log took {rate:,.0f} writes a second, some {100 * rate * WRITE_MS / 1000:.1f} % of a processor"
    share = 0.0
    with suppress(errors.InsufficientPrivilege, errors.ObjectNotInPrerequisiteState), conn.transaction():
        for (where,) in conn.execute(statement("queries/doctor_statements_schema")).fetchall():
            view = sql.Identifier(where, "pg_stat_statements")
            [(mean_ms, calls)] = conn.execute(statement("queries/doctor_statements", statements=view))
            if calls:
                share = WRITE_MS / max(mean_ms, WRITE_MS)
                sentence += (
                    f"; of the {mean_ms:.2f} ms that a statement writes on average, capture is about {share:.0%}"
                )
    if rate > WRITES_PER_S_MAX or share > OVERHEAD_SHARE_MAX:
        yield Finding("write-overhead", context.schema, sentence, "cdc-bridge bench measures it here")
