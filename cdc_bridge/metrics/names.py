"""The metrics of a bridge: what each is called, says, and is divided by. `docs/metrics.md` explains them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple


class Description(NamedTuple):
    """A metric that is no histogram is a counter if its name ends in `_total`, else a gauge."""

    text: str
    labels: tuple[str, ...] = ()
    is_histogram: bool = False


METRICS: Final[Mapping[str, Description]] = MappingProxyType(
    {
        "cdc_build_info": Description("The version of the bridge; always 1.", ("version",)),
        "cdc_ready": Description("1 if /readyz says ready."),
        "cdc_listening": Description("1 while the bridge takes the stream of changes."),
        "cdc_heartbeat_age_seconds": Description("Seconds since a heartbeat last proved that changes arrive."),
        "cdc_sessions_lost_total": Description("Connections to the database that were lost while listening."),
        "cdc_changes_total": Description(
            "Rows that have changed, as the bridge took them.", ("collection", "operation")
        ),
        "cdc_changes_undelivered_total": Description("Changes of which no client was sent anything.", ("reason",)),
        "cdc_deliveries_total": Description("Frames with data that were sent to clients."),
        "cdc_frames_sent_total": Description("Frames that were sent to clients, answers included."),
        "cdc_sent_bytes_total": Description("Bytes of these frames."),
        "cdc_lag_seconds": Description("Where changes spend their time.", ("cause",), is_histogram=True),
        "cdc_oldest_undelivered_age_seconds": Description("Age of the oldest change that waits to be sent; 0 if none."),
        "cdc_backlog_bytes": Description("Events that are kept for clients that have not been sent them."),
        "cdc_gaps_total": Description(
            "Gaps: changes that were committed and are missing from the stream.", ("reason",)
        ),
        "cdc_resyncs_total": Description("Fresh data for subscriptions that had data.", ("reason",)),
        "cdc_gate_state": Description("1 for the state in which the gate is.", ("state",)),
        "cdc_gate_changes_total": Description("How often the gate came to a state.", ("state",)),
        "cdc_log_bytes": Description("Size of the change log."),
        "cdc_log_age_seconds": Description("Age of the oldest change in the change log."),
        "cdc_log_closed": Description("1 while nothing is written to the change log, so that changes are gaps."),
        "cdc_reads_waiting": Description("Subscriptions that wait for a read."),
        "cdc_read_queue_seconds": Description("Time that reads waited for a worker.", ("kind",), is_histogram=True),
        "cdc_read_seconds": Description("Time of reads, of those done together once.", ("kind",), is_histogram=True),
        "cdc_evaluations_total": Description("Changes that PostgreSQL was asked about."),
        "cdc_evaluation_seconds": Description("Time of each round of questions about changes.", is_histogram=True),
        "cdc_policy_evaluation_seconds": Description(
            "Time of each round of questions with this policy.", ("collection", "policy"), is_histogram=True
        ),
        "cdc_connections": Description("Connections of clients."),
        "cdc_subscriptions": Description("Subscriptions."),
        "cdc_topics": Description("Different subscriptions: equal ones are one topic."),
        "cdc_client_round_trip_seconds": Description("Time until a client has read a frame.", is_histogram=True),
        "cdc_closes_total": Description("Connections that were closed, by whom and with which code.", ("by", "code")),
        "cdc_http_responses_total": Description("Requests that did not become a WebSocket.", ("status",)),
        "cdc_authentication_failures_total": Description("Tokens that were refused.", ("reason",)),
        "cdc_cursors_total": Description("Cursors that clients came back with.", ("outcome",)),
        "cdc_canary_seconds": Description("Time of the canary from its write to a frame.", is_histogram=True),
        "cdc_canary_sent_total": Description("Rows that the canary wrote."),
        "cdc_canary_lost_total": Description("Rows of the canary that did not arrive in time."),
    }
)

UNDELIVERED_REASONS: Final = ("not_subscribed", "paused", "filter", "policy")
CURSOR_OUTCOMES: Final = ("resumed", "no_log", "not_ours", "other_tables", "gap", "altered", "forgotten")

OTHER_REASON: Final = "malformed"
AUTHENTICATION_REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "it has expired": "expired",
        "it is not valid yet": "not_yet_valid",
        "it is for another audience": "audience",
        "it is from another issuer": "issuer",
        "it lacks its audience or its issuer": "issuer",
        "it is not signed with any known key": "unknown_key",
        "its algorithm is not supported": "algorithm",
        "tokens may not name its role": "role",
        "it names no role, and there is no anon_role": "role",
    }
)
"""The authenticator's reasons in the words of metrics. Any other reason is `OTHER_REASON`."""
