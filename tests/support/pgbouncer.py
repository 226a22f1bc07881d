"""PgBouncer, where it is installed."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support.process import free_port, require_program
from tests.support.server import Database


@contextlib.asynccontextmanager
async def pgbouncer(database: Database, directory: Path, mode: str, *, size: int = 30) -> AsyncIterator[str]:
    """The installed one, in front of the test's server, with as many server sessions."""
    program = require_program("pgbouncer", "only the pooler of the tests was tried")
    port = free_port()
    process = await asyncio.create_subprocess_exec(program, "-q", *_configured(database, directory, mode, port, size))
    try:
        dsn = make_conninfo(database.dsn, host="127.0.0.1", port=port)
        await _answers(dsn)
        yield dsn
    finally:
        process.send_signal(signal.SIGQUIT)  # at once, without waiting for clients
        await process.wait()


def _configured(database: Database, directory: Path, mode: str, port: int, size: int) -> list[str]:
    """The arguments of pgbouncer, which refuses to run as root."""
    server = conninfo_to_dict(database.dsn)
    known = {"host": server["host"], "port": server.get("port") or 5432, "dbname": database.name}
    known |= {"user": server.get("user") or getpass.getuser(), "password": server.get("password")}
    target = " ".join(f"{name}={value}" for name, value in known.items() if value)
    ini = directory / "pgbouncer.ini"
    ini.write_text(
        f"[databases]\n{database.name} = {target}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"auth_type = any\npool_mode = {mode}\ndefault_pool_size = {size}\nunix_socket_dir =\n"
    )
    if getpass.getuser() != "root":
        return [str(ini)]
    for parent in (directory, *directory.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o755)
    return ["-u", "nobody", str(ini)]


async def _answers(dsn: str) -> None:
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                async with await psycopg.AsyncConnection.connect(dsn) as connection:
                    await connection.execute("SELECT 1")
                    return
            await asyncio.sleep(0.05)
