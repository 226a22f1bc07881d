"""Whether a bridge is ready, and what `/readyz?verbose` says of it.

Rule: strangers are told no name of a table or a role, see `Reason`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cdc_bridge.admin.maintenance import LogMaintenance
from cdc_bridge.capture.change_stream import ChangeStream
from cdc_bridge.database.catalog_reader import PooledCatalogReader
from cdc_bridge.database.pools import ReadPools
from cdc_bridge.engine.broker import Broker
from cdc_bridge.engine.topic import Topic
from cdc_bridge.server.http import Reason, reason

LATE_TOPICS_MAX = 10
"""The topics that `/readyz?verbose` names."""

CATALOG_PROBLEM = "capture is not as it should be: the bridge's log says more"
NOT_LISTENING = "not listening to the database"


@dataclass(slots=True)
class Readiness:
    """The parts of a bridge that `RequestPolicy` asks, for its members of the same names."""

    broker: Broker
    capture: ChangeStream
    pools: ReadPools
    catalog: PooledCatalogReader
    maintenance: LogMaintenance
    heartbeat_timeout_s: float

    def reasons(self) -> Sequence[Reason]:
        found = [Reason(CATALOG_PROBLEM, each) for each in self.catalog.problems]
        found += map(reason, self.maintenance.problems)
        if self.pools.problems:
            found.insert(0, reason("no connection to read with"))
        if not self.broker.listening:
            obstacle = f": {self.capture.obstacle}" if self.capture.obstacle else ""
            found.insert(0, Reason(NOT_LISTENING, NOT_LISTENING + obstacle))
        elif self._silent_s > self.heartbeat_timeout_s:
            found.insert(0, reason(f"no heartbeat for {self.heartbeat_timeout_s:g} s"))
        return found

    def details(self) -> Mapping[str, object]:
        return {
            "subscriptions": len(self.broker.hub),
            "listening": self.broker.listening,
            "heartbeat_age_s": round(self._silent_s, 3) if self.broker.listening else None,
            "can_read": not self.pools.problems,
            "catalog": self._of_catalog([CATALOG_PROBLEM] if self.catalog.problems else []),
            "log": {"problems": list(self.maintenance.problems)},
        }

    def inner_details(self) -> Mapping[str, object]:
        late = self.broker.hub.subscribers.latest_topics(LATE_TOPICS_MAX)
        return {"catalog": self._of_catalog(self.catalog.problems), "late_topics": [_load(topic) for topic in late]}

    @property
    def _silent_s(self) -> float:
        return time.monotonic() - self.capture.last_proven_s

    def _of_catalog(self, problems: Sequence[str]) -> Mapping[str, object]:
        return {"collections": len(self.broker.hub.catalog.by_name), "problems": list(problems)}


def _load(topic: Topic) -> Mapping[str, object]:
    """Return what waits in a topic."""
    late, (_, oldest_us) = topic.late, topic.oldest or (0, 0)
    return {
        "collection": topic.subscription.collection.name,
        "subscribers": len(topic.subscribers),
        "late": len(late),
        "waiting_bytes": sum(each.waiting_bytes for each in late),
        "oldest_age_s": round(max(time.time() - oldest_us / 1e6, 0), 3) if oldest_us else None,
    }
