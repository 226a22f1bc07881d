"""Checks of the roles of clients and of their policies: what they cost, and what cannot be had.

No policy is evaluated. What one costs is PostgreSQL's own estimate of the question that a bridge asks; to estimate, its
planner may call functions that are STABLE.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection

from cdc_bridge.access.policy_filter import RlsPolicy, UnsupportedPolicy
from cdc_bridge.admin.problems import Finding, role_problems
from cdc_bridge.database.catalog import read_catalog
from cdc_bridge.database.expressions import parameters
from cdc_bridge.database.grants_reader import AccessReader
from cdc_bridge.database.select import evaluations
from cdc_bridge.database.sessions import NO_ROLE
from cdc_bridge.database.sessions import sentence as sentence_of
from cdc_bridge.database.where import Scope
from cdc_bridge.doctor.context import Context, unknown
from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.filter import Policy
from cdc_bridge.model.security_context import Principal, SecurityContext
from cdc_bridge.statements import Connection, statement

COST_MAX = 2500.0
"""The most that a question about 100 rows may cost, by the planner. Looking for each by an index costs about 900."""


def check_policies(conn: Connection, context: Context) -> Iterator[Finding]:
    """Look at each role of the settings, or at the bridge's own where there is none."""
    del conn
    settings = context.settings
    roles = tuple(sorted({*settings.roles, settings.anon_role} - {""}))
    yield from asyncio.run(_findings(context, roles))


async def _findings(context: Context, roles: tuple[str, ...]) -> list[Finding]:
    async with _connection(context) as conn:
        catalog = await read_catalog(conn, context.schema)
        reader = AccessReader(context.schema, roles)
        access = await reader.read(conn)
        found = [unknown("policies", "their tables are locked by another session")] if reader.is_incomplete else []
        found += [
            Finding("role-unusable", role, f'clients with the role "{role}" can read nothing', reason)
            for role, reason in role_problems(roles, access).items()
        ]
        if not context.settings.authenticates:
            found += [_unclaimed(role) for role in context.settings.roles]
        policies = [
            (role, collection, RlsPolicy(collection, applying, access.claim_functions))
            for role in roles or (None,)
            for collection in catalog.by_name.values()
            if (applying := access.to(collection.relation_id, role).policies)
        ]
        for role, collection, rls in policies:
            try:
                opaque = rls.opaque()
            except UnsupportedPolicy as error:
                found.append(_unsupported(collection, error.policy, error.reason))
                continue
            for policy in opaque:
                if isinstance(policy, Policy):
                    found.append(await _cost(conn, catalog, collection, policy, role))
    return list(dict.fromkeys(found))


def _unclaimed(role: str) -> Finding:
    sentence = f'no client can have the role "{role}", since nothing says which tokens are good'
    remedy = "set jwt_secret, jwt_public_key, jwt_jwks_url or static_tokens, or start doctor with the bridge's settings"
    return Finding("role-unusable", role, sentence, remedy)


def _unsupported(collection: Collection, policy: str, reason: str) -> Finding:
    table = collection.relation
    sentence = (
        f'the policy "{policy}" of {table} cannot be evaluated for changes, since {reason}; clients get FORBIDDEN'
    )
    return Finding("policy-unsupported", str(table), sentence, "write the policy otherwise, see docs/topics/rights.md")


async def _cost(
    conn: AsyncConnection[Any], catalog: Catalog, collection: Collection, policy: Policy, role: str | None
) -> Finding:
    """Return what a policy costs that only PostgreSQL can evaluate: explain the question, as the role."""
    scope = Scope(catalog, 0, SecurityContext(Principal(role=role)), of_versions=True)
    question = evaluations(collection, policy, [{}], scope)
    table = collection.relation
    try:
        async with conn.transaction(force_rollback=True):
            await conn.execute(statement("queries/doctor_as_role"), {"role": NO_ROLE if role is None else role})
            cursor = await conn.execute(statement("queries/doctor_explain", question=question), parameters(question))
            [([plan],)] = await cursor.fetchall()
    except psycopg.Error as error:
        if conn.closed:
            raise
        return unknown("policies", f'the policy "{policy.name}" of {table}: {sentence_of(error)}')
    cost = plan["Plan"]["Total Cost"]
    sentence = (
        f'PostgreSQL is asked about the policy "{policy.name}" of {table} for each change; for 100 rows its planner'
        f" expects a cost of {cost:,.0f}"
    )
    if cost > COST_MAX:
        remedy = "add an index on what the policy looks for; ANALYZE the tables that it looks into, if they are new"
        return Finding("policy-slow", str(table), sentence, remedy)
    remedy = "nothing needs to be done; a comparison of a column with a claim would cost nothing"
    return Finding("policy-opaque", str(table), sentence, remedy)


@asynccontextmanager
async def _connection(context: Context) -> AsyncIterator[AsyncConnection[Any]]:
    """Connect once more, for what only bridges read: in a transaction as `context.run` begins one."""
    async with await AsyncConnection.connect(
        context.settings.conninfo, autocommit=True, prepare_threshold=None, application_name="cdc-bridge doctor"
    ) as conn:
        await conn.set_read_only(True)
        async with conn.transaction(force_rollback=True):
            await conn.execute(statement("queries/doctor_session"))
            yield conn
