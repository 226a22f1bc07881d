"""All checks, in the order in which they are run."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from cdc_bridge.admin.problems import Finding, Severity
from cdc_bridge.doctor import capture, policies, server
from cdc_bridge.doctor.context import Check, Context, run
from cdc_bridge.statements import Connection

OF_THE_SERVER: Mapping[str, Check] = MappingProxyType(
    {
        "pooler": server.check_pooler,
        "clock": server.check_clock,
        "certificate": server.check_certificate,
        "disk": server.check_disk,
        "transactions": server.check_transactions,
        "queue": server.check_queue,
        "schema": capture.check_schema,
    }
)

OF_OURS: Mapping[str, Check] = MappingProxyType(
    {
        "standby": server.check_standby,
        "rights": capture.check_rights,
        "triggers": capture.check_triggers,
        "tables": capture.check_tables,
        "notify": capture.check_notify,
        "log": capture.check_log,
        "bridges": capture.check_bridges,
        "publications": server.check_publications,
        "overhead": capture.check_overhead,
        "policies": policies.check_policies,
    }
)
"""These need a schema that is ours and open to the connected role."""

STEPS = len(OF_THE_SERVER) + len(OF_OURS)


def examine(conn: Connection, context: Context, tick: Callable[[], object] = lambda: None) -> list[Finding]:
    """Run all checks, on a connection in autocommit mode, and return what they find, the worst first.

    `tick` is called after each of `STEPS`. Raises `psycopg.OperationalError` when the connection breaks.
    """
    if too_old := server.old_version(conn):
        return [too_old]
    found: list[Finding] = []
    for checks in (OF_THE_SERVER, OF_OURS):
        if checks is OF_THE_SERVER or context.is_usable:
            for name, check in checks.items():
                found += run(name, check, conn, context)
                tick()
    order = list(Severity)
    return sorted(found, key=lambda finding: order.index(finding.severity))
