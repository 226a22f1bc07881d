"""Where no engine is to be had, these tests are skipped, and the end of the run says so where nobody misses it.

CDC_BRIDGE_TEST_DOCKER=required makes that a failure, =off skips them without looking for an engine.
"""

import os
import secrets
from collections.abc import Iterator
from typing import NoReturn

import pytest

from tests.docker.container import PASSWORD, STARTS_WITHIN_S, Container, container
from tests.docker.engine import Engine, Unavailable, base_image, companion_image, running_engine, sidecar_image

_why_skipped = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def engine(pytestconfig: pytest.Config) -> Iterator[Engine]:
    try:
        with running_engine() as engine:
            yield engine
    except Unavailable as reason:
        _skip(pytestconfig, reason)


@pytest.fixture(scope="session")
def base(engine: Engine, pytestconfig: pytest.Config) -> str:
    try:
        return base_image(engine)
    except Unavailable as reason:
        _skip(pytestconfig, reason)


@pytest.fixture(scope="session")
def postgres_name(engine: Engine, base: str) -> str:
    """The image of the PostgreSQL beside the bridge."""
    return companion_image(engine, base, "postgres", os.environ.get("CDC_BRIDGE_TEST_IMAGE"))


@pytest.fixture(scope="session")
def sidecar_name(engine: Engine, base: str) -> Iterator[str]:
    """The image under test. It goes at the end, the builder's cache stays."""
    name = sidecar_image(engine, base)
    yield name
    engine("image", "rm", name)


@pytest.fixture(scope="session")
def network(engine: Engine) -> Iterator[str]:
    name = f"cdc-bridge-test-{secrets.token_hex(4)}"
    engine("network", "create", name)
    yield name
    engine("network", "rm", name)


@pytest.fixture(scope="session")
def postgres(engine: Engine, network: str, postgres_name: str) -> Iterator[Container]:
    """A PostgreSQL that the other containers know by the name `postgres`, with one table."""
    options = ("--network-alias", "postgres", "--env", f"POSTGRES_PASSWORD={PASSWORD}")
    with container(engine, network, postgres_name, options=options) as postgres:
        postgres.until(postgres.takes_statements, STARTS_WITHIN_S)
        postgres.psql("CREATE TABLE messages (id int PRIMARY KEY, text text)")
        postgres.psql("CREATE ROLE web NOLOGIN; GRANT SELECT ON messages TO web")
        yield postgres


def _skip(config: pytest.Config, reason: Unavailable) -> NoReturn:
    if os.environ.get("CDC_BRIDGE_TEST_DOCKER") == "required":
        pytest.fail(f"CDC_BRIDGE_TEST_DOCKER=required, but {reason}")
    config.stash[_why_skipped] = str(reason)
    pytest.skip(str(reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if reason := config.stash.get(_why_skipped, None):
        terminalreporter.section("ATTENTION: the sidecar image was NOT tested", yellow=True, bold=True)
        terminalreporter.line(reason)
