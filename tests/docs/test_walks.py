"""Pages whose commands are run as they stand, in a shell, on a server of their own: each page from top to bottom.

Every host is that server, whatever its name. What the machine lacks (`systemctl`, an application's `manage.py`) does
nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.docs.blocks import BLOCKS, Block
from tests.docs.test_sql import OF_CLIENTS, OF_THE_TABLES, TABLES
from tests.support.cluster import Cluster
from tests.support.process import ROOT, free_port
from tests.support.server import Database, bin_dir, own_cluster, server_of
from tests.support.terminal import Terminal

pytestmark = pytest.mark.once  # what it is about is the same on each version of PostgreSQL

SECRET = "a secret of some thirty-two bytes"
NO_PROGRAM_HERE = "python", "systemctl"


def walk(page: str) -> list[Block]:
    return [block for block in BLOCKS if block.page == ROOT / page and block.language in ("sh", "sql")]


ROLES = walk("docs/topics/roles.md")[:1]  # tests/schema/test_managed.py has its other ways
WALKS = [walk("docs/how-to/orms.md"), walk("docs/how-to/postgrest.md"), [*ROLES, *walk("docs/how-to/upgrade.md")]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with own_cluster() as cluster:
        yield cluster


@pytest.fixture
def shop(cluster: Cluster) -> Iterator[Database]:
    """Make the database of the pages, with tables that `app` owns. Afterwards neither it nor any role is left."""
    server = server_of(cluster)
    postgres = Database(server, "postgres")
    postgres.execute(f"CREATE ROLE {OF_THE_TABLES} LOGIN")
    postgres.execute(f"CREATE DATABASE shop OWNER {OF_THE_TABLES}")
    shop = Database(server, "shop")
    for role in OF_CLIENTS:
        shop.execute(f"CREATE ROLE {role}")
    for table, columns in (TABLES | {"lines": "id int PRIMARY KEY"}).items():
        shop.execute(f"CREATE TABLE {table} ({columns}); ALTER TABLE {table} OWNER TO {OF_THE_TABLES}")
    yield shop
    server.drop_database(shop)
    server.drop_roles()


@pytest.fixture
def terminal(shop: Database, tmp_path: Path) -> Iterator[Terminal]:
    server = conninfo_to_dict(shop.dsn)
    programs = tmp_path / "programs"
    programs.mkdir()
    write(programs / "cdc-bridge", f'exec "{sys.executable}" -m cdc_bridge "$@"')
    for name in NO_PROGRAM_HERE:
        write(programs / name, "")
    env = {
        "PATH": f"{programs}{os.pathsep}{bin_dir()}{os.pathsep}{os.environ['PATH']}",
        "PGHOSTADDR": "127.0.0.1",
        "PGPORT": str(server["port"]),
        "PGUSER": "postgres",
        "PGDATABASE": "shop",
        "ADMIN": "postgresql://postgres@localhost/shop",
        "PGRST_JWT_SECRET": SECRET,
        "CDC_BRIDGE_PORT": str(free_port()),
        "CDC_BRIDGE_DRAIN_S": "0",
    }
    with Terminal(tmp_path, "only", env) as terminal:
        yield terminal


def write(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/bash\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize("blocks", WALKS, ids=lambda blocks: str(blocks[-1]))
async def test_commands_of_a_page_succeed(blocks: list[Block], shop: Database, terminal: Terminal) -> None:
    await follow(blocks, shop, terminal)


async def test_database_moves_to_another_server(cluster: Cluster, shop: Database, terminal: Terminal) -> None:
    *steps, _ = walk("docs/how-to/move.md")  # the last block is of another way
    await follow(ROLES, shop, terminal)
    with own_cluster() as new:
        await follow([on(block, old=cluster, new=new) for block in steps], shop, terminal)
        triggers = "SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger WHERE tgname ~ 'cdc_bridge'"
        assert {table for (table,) in Database(server_of(new), "shop").execute(triggers)} == {*TABLES, "lines"}
        assert shop.execute(triggers) == []


def on(block: Block, **servers: Cluster) -> Block:
    text = block.text
    for name, server in servers.items():
        text = text.replace(f"--host {name} ", f"--port {server.port} ").replace(f"@{name}/", f"@:{server.port}/")
    return replace(block, text=text)


async def follow(blocks: list[Block], shop: Database, terminal: Terminal) -> None:
    texts = "".join(block.text for block in blocks)
    for role in OF_CLIENTS:
        if f"CREATE ROLE {role}" in texts:
            shop.execute(f"DROP ROLE {role}")
    for block in blocks:
        if block.language == "sql":
            shop.execute(block.text)
            continue
        text = block.text.replace("SECRET=...", f"SECRET='{SECRET}'")
        text = text.replace("cdc-bridge doctor", "cdc-bridge doctor || test $? = 7")  # no bridge serves
        before, found, after = text.partition("cdc-bridge serve")
        await terminal.run(before)
        if found:
            await terminal.start(found + after, "listening on")
            await terminal.interrupt()
