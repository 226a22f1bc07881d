"""Sum up an explanation: a code for programs, and a sentence."""

from __future__ import annotations

from collections.abc import Iterator

from cdc_bridge.explain.explanation import Explanation
from cdc_bridge.explain.verdict import Outcome, Verdict


def answer(found: Explanation) -> tuple[str, str]:
    """Return why the client got the row's newest change, or did not."""
    if found.refusal is not None:
        reasons = "".join(f'. The policy "{name}" cannot be evaluated: {reason}' for name, reason in found.obstacles)
        return "refused", f"its subscribe is refused: {str(found.refusal).rstrip('.')}{reasons}"
    if found.is_as_captured is False:
        return "not_captured", f"the row has changed without being captured{''.join(_when(found))}"
    if not found.verdicts:
        return _without_history(found)
    return _of_verdict(found.verdicts[0])


def _of_verdict(verdict: Verdict) -> tuple[str, str]:
    causes = "; ".join(sentence for _, sentence in verdict.causes)
    match verdict.outcome:
        case Outcome.DELIVERED:
            events = " and ".join(event.kind.value for event in verdict.events)
            left = f" (the row leaves: {causes})" if causes else ""
            return "delivered", f"its newest change is for this client: {events}{left}"
        case Outcome.RESYNC:
            return "resync", "the newest change cannot be decided for this client, which gets fresh data instead"
        case Outcome.UNKNOWN:
            return "unknown", f"what a bridge said of the newest change cannot be told: {causes}"
    code = verdict.causes[0][0] if verdict.causes else "not_delivered"
    return code, f"the newest change is not for it: {causes or 'its conditions do not let it through'}"


def _without_history(found: Explanation) -> tuple[str, str]:
    reach, now = found.reach, found.row_now
    if not found.collection.durable:
        return (
            "not_kept",
            "the table is in the mode live, of which nothing is kept: only the row as it is can be judged",
        )
    older = "the log does not reach back to every change: what it has forgotten cannot be explained"
    if now is None or now.row is None:
        gone = (
            "the log has no change of it" if now is None else "there is no such row, and the log has no change of one"
        )
        return "no_change", gone if reach.forgotten_xid is None else f"{gone}; {older}"
    if reach.forgotten_xid is not None and now.xid is not None and now.xid <= reach.forgotten_xid:
        return "forgotten", f"the row was written last by transaction {now.xid}, and {older}"
    return "not_captured", f"the log has no change of the row{''.join(_when(found))}"


def _when(found: Explanation) -> Iterator[str]:
    """Say what is known of a change that was not captured."""
    xid = found.row_now.xid if found.row_now else None
    if xid is not None:
        yield f"; transaction {xid} wrote it last"
        if found.reach.trigger_xid is not None and xid < found.reach.trigger_xid:
            yield (
                f", before the table's triggers were made, disabled or enabled last (transaction"
                f" {found.reach.trigger_xid}): it was not attached then, or its triggers were disabled"
            )
    if found.reach.gaps:
        yield f"; {found.reach.gaps} changes in this database could not be captured (gaps)"
