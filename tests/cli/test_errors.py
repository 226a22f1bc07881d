"""Every error is one sentence with an exit code, without a traceback, without a password."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.cli.command import assert_one_sentence, command, environment, run
from tests.support.server import Database

pytestmark = pytest.mark.once  # what it is about is the same on each version of PostgreSQL


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:sekret@127.0.0.1:1/db",
        "postgresql://u:se%20kret@127.0.0.1:1/db",
        "host=127.0.0.1 port=1 user=u password=sekret",
        "host=127.0.0.1 port=1 user=u password='se kret'",
        "host=nosuch.invalid user=u password=sekret",
    ],
)
@pytest.mark.parametrize("arguments", [("status",), ("attach", "--all"), ("detach", "--all")])
def test_unreachable_database(dsn: str, arguments: tuple[str, ...], tmp_path: Path) -> None:
    said = assert_one_sentence(run(*arguments, "--dsn", dsn, cwd=tmp_path), 3)
    assert said.startswith("cannot connect to ")
    assert "kret" not in said


@pytest.mark.parametrize("dsn", ["nonsense sekret", "postgresql://u:sekret@[::1/db", "host=db passwort=sekret"])
def test_dsn_that_libpq_cannot_read(dsn: str, tmp_path: Path) -> None:
    for source in ({"CDC_BRIDGE_DSN": dsn}, {}):
        arguments = () if source else ("--dsn", dsn)
        said = assert_one_sentence(run("status", *arguments, cwd=tmp_path, env=source), 2)
        assert said.startswith("CDC_BRIDGE_DSN: " if source else "--dsn: ")
        assert "sekret" not in said


def test_wrong_password_and_unknown_database(database: Database, tmp_path: Path) -> None:
    dsn = make_conninfo(database.dsn, dbname="nosuch", password="sekret")
    said = assert_one_sentence(run("status", "--dsn", dsn, cwd=tmp_path), 3)
    assert '"nosuch" does not exist' in said
    assert "sekret" not in said


def test_environment_of_libpq_is_used_when_nothing_else_is_said(tmp_path: Path) -> None:
    env = {"PGHOST": "127.0.0.1", "PGPORT": "1", "PGDATABASE": "shop", "PGUSER": "u", "PGPASSWORD": "sekret"}
    said = assert_one_sentence(run("status", cwd=tmp_path, env=env), 3)
    assert "127.0.0.1:1/shop" in said
    assert "sekret" not in said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("port = = 1", "not valid TOML"),
        ("prot = 1", "did you mean port?"),
        ("port = 'x'", "port in cdc-bridge.toml"),
        ("dsn = 'nonsense sekret'", "dsn in cdc-bridge.toml"),
    ],
)
def test_bad_file(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "cdc-bridge.toml").write_text(text, encoding="utf-8")
    said = assert_one_sentence(run("status", cwd=tmp_path), 2)
    assert expected in said
    assert "sekret" not in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("nosuch",),
        ("attach", "--nosuch"),
        ("attach",),
        ("attach", "t", "--all"),
        ("attach", "t", "--schema", "s"),
        ("attach", "t", "--mode", "other"),
        ("detach",),
        ("serve", "--port", "x", "--insecure-public"),
        ("serve", "--config", "nosuch.toml"),
        ("listen", "t", "--url", "http://127.0.0.1"),
        ("listen", "t", "--url", "ws://127.0.0.1:99999/websocket"),
        ("listen", "t", "--event", "other"),
        ("demo", "--port", "99999"),
    ],
)
def test_command_line_that_makes_no_sense(arguments: tuple[str, ...], tmp_path: Path) -> None:
    assert_one_sentence(run(*arguments, cwd=tmp_path), 2)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ((), "static_tokens"),
        (("--insecure-public",), "--insecure-bind"),
        (("--jwt-secret", "a secret that is long enough for HS256"), "tls_certificate"),
        (("--insecure-bind", "--tls-certificate", "nosuch.pem"), "tls_key"),
    ],
)
def test_serve_is_reached_from_elsewhere_only_with_authentication_and_tls(
    arguments: tuple[str, ...], names: str, tmp_path: Path
) -> None:
    assert names in assert_one_sentence(run("serve", "--host", "0.0.0.0", *arguments, cwd=tmp_path), 2)


def test_serve_on_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments = ("serve", "--insecure-public", "--port", port, "--dsn", "host=127.0.0.1 port=1 password=sekret")
        done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 5
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(f"cdc-bridge: cannot listen on 127.0.0.1:{port} (")
    assert "Traceback" not in done.stderr
    assert "sekret" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"), [(("--insecure-public",), "without authentication"), ((), "every client gets FORBIDDEN")]
)
def test_serve_warns_that_it_is_public_or_that_it_is_not(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    rest = ("--port", "0", "--log-format", "json", "--dsn", "host=127.0.0.1 port=1")
    with subprocess.Popen(
        command("serve", *arguments, *rest),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert re.fullmatch(r"listening on ws://127\.0\.0\.1:\d+/websocket\n", process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        lines = [json.loads(line) for line in process.stderr]
    assert process.returncode == 0
    assert lines[0]["level"] == "warning"
    assert says in lines[0]["message"]


def test_unknown_variable_is_a_warning(tmp_path: Path) -> None:
    done = run("sql", cwd=tmp_path, env={"CDC_BRIDGE_SCHEMAS": "x"})
    assert done.returncode == 0
    assert done.stderr == (
        "cdc-bridge: warning: CDC_BRIDGE_SCHEMAS is not a setting and is ignored; did you mean CDC_BRIDGE_SCHEMA?\n"
    )


def test_traceback_on_request(tmp_path: Path) -> None:
    done = run("status", "--dsn", "postgresql://u:sekret@127.0.0.1:1/db", "--traceback", cwd=tmp_path)
    assert "Traceback" in done.stderr
    assert "sekret" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("cdc-bridge: cannot connect to 127.0.0.1:1/db")
    assert done.returncode == 3


LOADING = """
import os, signal, sys

class Terminating:
    def __set_name__(self, owner, name):
        os.kill(os.getpid(), signal.SIGTERM)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "cdc_bridge.cli.app":
            type("Made", (), {"member": Terminating()})

sys.meta_path.insert(0, Finder())
from cdc_bridge.cli import main
main()
"""


def test_sigterm_while_a_class_is_made_is_no_error(tmp_path: Path) -> None:
    """Python before 3.12 turns what a signal handler raises there into a RuntimeError."""
    arguments = [sys.executable, "-c", LOADING]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")


def test_word_that_is_none_of_the_choices(tmp_path: Path) -> None:
    said = assert_one_sentence(run("attach", "t", "--mode", "foo", cwd=tmp_path), 2)
    assert said == (
        "Invalid value for '--mode': 'foo' is not one of 'durable', 'live'. (cdc-bridge attach --help tells more)"
    )


def test_table_that_stays_locked_is_not_waited_for_by_others(database: Database, tmp_path: Path) -> None:
    """A plan takes no lock at all."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    with psycopg.connect(database.dsn) as holder:
        holder.execute("LOCK TABLE t")
        done = run("attach", "t", "--plan", "--dsn", database.dsn, cwd=tmp_path)
    assert done.returncode == 0
    assert "LOCK TABLE" in done.stdout


def test_database_in_which_nothing_can_be_written(database: Database, tmp_path: Path) -> None:
    """As a hot standby is."""
    database.execute("CREATE TABLE messages (id int)")
    dsn = make_conninfo(database.dsn, options="-c default_transaction_read_only=on")
    said = assert_one_sentence(run("attach", "messages", "--dsn", dsn, cwd=tmp_path), 3)
    assert said.rstrip().endswith("connect to the primary")
