"""Examines a test's database, in its process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from cdc_bridge.admin.problems import Finding
from cdc_bridge.doctor.context import Context
from cdc_bridge.doctor.examination import examine
from cdc_bridge.settings import Settings
from tests.support.server import Database

RETENTION = 1024 * 1024
"""The least, so that no test's disk is too small."""


SECRET = SecretStr("that of an issuer who signs tokens")


def context(dsn: str, *, long_s: float = 3600, now: Callable[[], float] = time.time, **settings: Any) -> Context:
    chosen = Settings(**{"dsn": SecretStr(dsn), "retention_bytes": RETENTION, "jwt_secret": SECRET, **settings})
    return Context(chosen, long_s, now)


def findings(dsn: str, **options: Any) -> list[Finding]:
    """Of a doctor who connects by `dsn`. Options are those of `context`."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        return examine(conn, context(dsn, **options))


def found(database: Database, *, role: str | None = None, **options: Any) -> dict[str, Finding]:
    """By id; `role` is who connects."""
    dsn = make_conninfo(database.dsn, user=role) if role else database.dsn
    return {finding.id: finding for finding in findings(dsn, **options)}
