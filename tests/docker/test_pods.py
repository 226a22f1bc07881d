"""The pods of deploy/, as far as Docker can run them: their containers, as written, and what their probes ask."""

import asyncio
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.docker.container import HARDENED, PASSWORD, SECRET, STARTS_WITHIN_S, Container, container
from tests.docker.engine import Engine
from tests.kubernetes.objects import SIDECAR, Object, container_named, objects, one, rendered
from tests.support.wsclient import connected

pytestmark = pytest.mark.timeout(900)  # the first test also waits for the images

DATABASE = "shop"


def dsn(role: str) -> str:
    return f"postgresql://{role}:{quote(PASSWORD, safe='')}@postgres/{DATABASE}"


SECRETS = {"dsn": dsn("cdc_bridge"), "owner-dsn": dsn("cdc_owner"), "jwt-secret": SECRET}
"""The members of the secret `cdc-bridge`."""


@pytest.fixture(scope="module")
def shop(engine: Engine, postgres: Container, sidecar_name: str) -> Container:
    """A database with one table and the two roles that docs/topics/roles.md makes."""
    postgres.psql(f"CREATE DATABASE {DATABASE}")
    table = "CREATE TABLE orders (id int PRIMARY KEY); GRANT SELECT ON orders TO web;"
    postgres.psql(f"CREATE ROLE app; {table} ALTER TABLE orders OWNER TO app", DATABASE)
    postgres.psql(engine("run", "--rm", sidecar_name, "sql", "--roles", "--reads-as", "web"), DATABASE)
    postgres.psql(f"ALTER ROLE cdc_owner PASSWORD '{PASSWORD}'; ALTER ROLE cdc_bridge PASSWORD '{PASSWORD}'", DATABASE)
    postgres.psql("GRANT app TO cdc_owner", DATABASE)
    return postgres


@pytest.fixture(scope="module", params=["sidecar.yaml", "chart"])
def found(request: pytest.FixtureRequest) -> list[Object]:
    return objects(SIDECAR.read_text()) if request.param == "sidecar.yaml" else rendered()


def options(of: Object) -> Iterator[str]:
    """Yield the options of `docker run` for a container. That it drops privileges is tested in tests/kubernetes."""
    yield from HARDENED
    yield from ("--user", "10001:10001")
    for each in of["env"]:
        value = each["value"] if "value" in each else SECRETS[each["valueFrom"]["secretKeyRef"]["key"]]
        yield from ("--env", f"{each['name']}={value}")


async def test_pod_attaches_serves_and_ends(
    engine: Engine, network: str, shop: Container, sidecar_name: str, found: list[Object]
) -> None:
    attach, written = (container_named(name, found) for name in ("attach", "bridge"))
    pod = one(found, "Deployment")["spec"]["template"]["spec"]
    engine("run", "--rm", "--network", network, *options(attach), sidecar_name, *attach["args"])

    published = (*options(written), "--publish", "127.0.0.1::8765")
    with container(engine, network, sidecar_name, *written["args"], options=published) as bridge:
        bridge.until(bridge.is_ready, STARTS_WITHIN_S)
        for probe in ("livenessProbe", "readinessProbe"):
            bridge.get(written[probe]["httpGet"]["path"])

        async with connected(bridge.url) as client:
            await client.send({"type": "subscribe", "collection": "orders"})
            known = (await client.expect(event="init"))["data"]
            row = {"id": len(known) + 1}
            await asyncio.to_thread(shop.psql, f"INSERT INTO orders VALUES ({row['id']})", DATABASE)
            await client.expect(event="create", data=[row])

            await asyncio.to_thread(bridge.execute, *written["lifecycle"]["preStop"]["exec"]["command"])
            patience = str(pod["terminationGracePeriodSeconds"])
            await asyncio.to_thread(engine, "stop", "--time", patience, bridge.name)
            assert await client.closed() == 1012
        assert bridge.facts["State"]["ExitCode"] == 0, bridge.logs
