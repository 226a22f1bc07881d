"""The words and the members in which `cdc-bridge explain` answers."""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from cdc_bridge.admin.status import AttachedTable, Bridge, Status
from cdc_bridge.cli.maintain import age, size
from cdc_bridge.explain.answer import answer
from cdc_bridge.explain.explanation import Explanation, Question
from cdc_bridge.explain.verdict import Verdict
from cdc_bridge.model.change import Change

POSITION_BITS = 64
"""The bits of a `seq` below the position in the WAL, see `capture.payload.log_sequence`."""

ROW_CHARACTERS_MAX = 300
"""The most characters of a row that people are shown. `--json` has all."""

BEHIND_S = 5
SILENT_S = 15.0
"""A bridge asks the database every second or so; one that has not for so long hangs."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The facts that an answer uses besides the row. `bridge` is what the one at `--url` said at `asked_at_s`, in
    seconds since 1970.
    """

    question: Question
    status: Status
    bridges: Sequence[Bridge]
    bridge: Mapping[str, Any] | None
    asked_at_s: float


# --- for programs ---


def as_members(found: Explanation | None, around: Surroundings) -> dict[str, Any]:
    """Return what `--json` prints. Later releases add members, and never rename or remove one."""
    question, status = around.question, around.status
    code, text = _answer(found, around)
    members: dict[str, Any] = {"collection": question.collection, "key": question.key, "answer": code, "text": text}
    members["attached"] = found is not None
    if found is not None:
        table = _table(found, status)
        now = found.row_now
        members |= {
            "table": str(found.collection.relation),
            "mode": "durable" if found.collection.durable else "live",
            "role": found.principal.role or found.principal.name or None,
            "refusal": found.refusal and {"code": found.refusal.code, "message": found.refusal.message},
            "readable": found.readable,
            "hidden": found.hidden,
            "changes": [_verdict_members(each) for each in found.verdicts],
            "now": found.now and _verdict_members(found.now),
            "row": {
                "exists": None if now is None else now.row is not None,
                "xid": now and now.xid,
                "as_captured": found.is_as_captured,
                "in_initial_data": found.in_initial_data,
            },
            "problems": table.problems if table else (),
            "gaps": found.reach.gaps,
            "forgotten": found.reach.forgotten_xid is not None,
        }
    log = status.log
    return members | {
        "log_reaches_back_s": log and log.oldest_age_s,
        "gate_open": log and log.is_gate_open,
        "notify": status.notify,
        "bridges": [asdict(each) for each in around.bridges],
        "bridge": around.bridge,
        "notes": [*(found.notes if found else ()), *_unread(status)],
    }


def _verdict_members(verdict: Verdict) -> dict[str, Any]:
    change = verdict.change
    return {
        "at": _instant(change.at).isoformat() if change.at else None,
        "xid": change.xid,
        "seq": _position(change.seq) if change.seq else None,
        "operation": change.operation.name.lower(),
        "outcome": verdict.outcome,
        "causes": [{"code": code, "text": text} for code, text in verdict.causes],
        "conditions": [
            {
                "kind": each.condition.kind,
                "text": each.condition.text,
                "permissive": each.condition.is_permissive if each.condition.kind == "policy" else None,
                "old": each.old,
                "new": each.new,
                "error": each.reason or None,
            }
            for each in verdict.judged
        ],
        "events": [
            {
                "event": event.kind.value,
                "reason": event.reason and event.reason.value,
                "data": None if event.rows is None else [msgspec.Raw(row) for row in event.rows],
            }
            for event in verdict.events
        ],
    }


# --- for people ---


class _Readiness(msgspec.Struct):
    """The part of `/readyz?verbose` that is shown."""

    reasons: list[str]


def lines(found: Explanation | None, around: Surroundings) -> Iterator[str]:
    question, status, bridge = around.question, around.status, around.bridge
    _, text = _answer(found, around)
    role = found and (found.principal.role or found.principal.name)
    yield f"{question.collection} {question.key}, for {f'the role {role!r}' if role else 'the bridge itself'}"
    yield f"Answer: {text}"
    if found is not None:
        yield from _lines_of_row(found, status)
    yield f"Notify: {_notify(status)}"
    yield f"Bridges: {'; '.join(map(_bridge, around.bridges)) or len(status.listeners) or 'none'}"
    if bridge is not None:
        yield f"  {bridge['url']}: {_readiness(bridge)}"
        if bridge["oldest_undelivered_s"] is not None:
            yield (
                f"  its oldest undelivered change waits for {bridge['oldest_undelivered_s']:.1f} s;"
                f" {size(bridge['backlog_bytes'])} are kept for clients that lag"
            )
    for sentence in [*(found.notes if found else ()), *_unread(status)]:
        yield f"Note: {sentence}"


def _readiness(bridge: Mapping[str, Any]) -> str:
    """Return in words whether a bridge is ready. What answers in its place is quoted."""
    try:
        reasons = msgspec.json.decode(bridge["answer"], type=_Readiness).reasons
    except msgspec.DecodeError:
        return "; ".join(str(bridge["answer"]).splitlines())
    return f"not ready: {'; '.join(reasons)}" if reasons else "ready"


def _lines_of_row(found: Explanation, status: Status) -> Iterator[str]:
    reached = status.log.oldest_age_s if status.log else None
    back = "is empty" if reached is None else f"reaches back {age(reached)}"
    forgotten = "older changes are forgotten" if found.reach.forgotten_xid else "nothing was forgotten"
    yield f"Changes in the log ({back}; {forgotten}): {len(found.verdicts) or 'none'}"
    for verdict in found.verdicts:
        change = verdict.change
        yield f"  {_instant(change.at):%Y-%m-%d %H:%M:%S.%f} UTC  {change.operation.name}  {_written(change)}"
        yield from _lines_of_verdict(verdict)
    yield f"Row now: {_row_now(found)}"
    if found.now is not None and not (found.verdicts and found.is_as_captured):
        yield "  as if it were inserted now"
        yield from _lines_of_verdict(found.now)
    yield f"Readable: {', '.join(found.readable) or 'nothing'}" + (
        f"; hidden: {', '.join(found.hidden)}" if found.hidden else ""
    )
    table = _table(found, status)
    problems = table.problems if table else ()
    yield f"Triggers: {'; '.join(problems) or 'there and enabled'}"


def _lines_of_verdict(verdict: Verdict) -> Iterator[str]:
    outcome = verdict.outcome.replace("_", " ")
    events = [f"{event.kind.value}{f' ({event.reason.value})' if event.reason else ''}" for event in verdict.events]
    data = [_shorten(row.decode()) for event in verdict.events for row in event.rows or ()]
    yield f"    {outcome}{': ' if events else ''}{', '.join(events)} {' '.join(data)}".rstrip()
    for each in verdict.judged:
        said = [f"{name} {truth}" for name, truth in (("old", each.old), ("new", each.new)) if truth]
        yield f"      {each.condition}: {', '.join(said)}{f' ({each.reason})' if each.reason else ''}"
    if not verdict.judged:
        yield from (f"      {sentence}" for _, sentence in verdict.causes)


def _shorten(text: str) -> str:
    return text if len(text) <= ROW_CHARACTERS_MAX else f"{text[:ROW_CHARACTERS_MAX]}..."


def _row_now(found: Explanation) -> str:
    now = found.row_now
    words = {
        None: "",
        True: ", as the newest change has left it",
        False: ", and not as the newest change has left it",
    }[found.is_as_captured]
    there = "unknown" if now is None else f"there{words}" if now.row else f"not there{words}"
    data = {
        None: "",
        True: "; a client that subscribes now gets it",
        False: "; a client that subscribes now does not get it",
    }
    return there + data[found.in_initial_data]


def _answer(found: Explanation | None, around: Surroundings) -> tuple[str, str]:
    if found is None:
        name = around.question.collection
        return "not_attached", f"{name} is not attached, so its changes are not captured: cdc-bridge attach {name}"
    code, text = answer(found)
    table = _table(found, around.status)
    if table and table.problems:
        text += f". Changes may be missed: {table.problems[0]}"
    if not around.status.listeners:
        text += ". No bridge is connected to the database, so nobody delivers changes now"
    for each in around.bridges:
        if each.behind_s > BEHIND_S or (each.silent_s or 0) > SILENT_S:
            text += f". A bridge is late: {_bridge(each)}"
    waits_s = around.bridge and around.bridge["oldest_undelivered_s"]
    if waits_s and found.verdicts and found.verdicts[0].change.at / 1e6 >= around.asked_at_s - waits_s:
        text += ". The bridge still has changes as old as this one to deliver: the client may be behind"
    return code, text


def _bridge(bridge: Bridge) -> str:
    silent = "" if bridge.silent_s is None else f", asked the database {age(bridge.silent_s)} ago"
    return f"process {bridge.pid}, version {bridge.version}, {bridge.behind_s} s behind{silent}"


def _notify(status: Status) -> str:
    if status.notify is None or status.log is None:
        return "unknown"
    gate = "open, so writers notify" if status.log.is_gate_open else "shut, so bridges look into the log"
    closed = "; nothing is written to the log, see cdc-bridge status" if status.log.is_full else ""
    return f"{status.notify}; the gate is {gate}{closed}"


def _unread(status: Status) -> Iterator[str]:
    if status.log is None:
        yield "the state of the log and the gate: this role may not read them, or a part of the log is missing"


def _table(found: Explanation, status: Status) -> AttachedTable | None:
    return next((each for each in status.tables if str(each) == str(found.collection.relation)), None)


def _written(change: Change) -> str:
    return f"transaction {change.xid} at {_position(change.seq)}"


def _position(seq: int) -> str:
    """Return where the WAL stood, as PostgreSQL writes it."""
    position = seq >> POSITION_BITS
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def _instant(at_us: int) -> datetime.datetime:
    return datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(microseconds=at_us)
