"""Build the parts that a bridge would have, ask them about one row and one client, and sum up the answer."""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, fields, replace
from typing import Any

from psycopg_pool import PoolTimeout

from cdc_bridge.access.access_policy import AccessPolicy
from cdc_bridge.access.auth_state import authentication_failed
from cdc_bridge.access.authenticator import Roles, TokenRefused, read_claims, with_role
from cdc_bridge.access.rules import RuleSet
from cdc_bridge.admin.problems import role_problems
from cdc_bridge.capture.connection import Connector
from cdc_bridge.conninfo import READ
from cdc_bridge.database.catalog_reader import PooledCatalogReader
from cdc_bridge.database.pools import Pool, ReadPools
from cdc_bridge.database.row_evaluator import PooledRowEvaluator
from cdc_bridge.database.snapshot import SnapshotReader
from cdc_bridge.engine.query_parser import ParsedQuery, QueryParser
from cdc_bridge.explain.history import (
    Key,
    Reach,
    RowNow,
    find_changes,
    find_key,
    read_reach,
    read_row_now,
    tables_of,
)
from cdc_bridge.explain.verdict import Condition, Judge, Verdict, policy_conditions
from cdc_bridge.model.catalog import Catalog, Collection, Column
from cdc_bridge.model.change import Change, Operation
from cdc_bridge.model.encoding import row_key, value_encoder
from cdc_bridge.model.errors import (
    DatabaseError,
    DatabaseUnreachable,
    RequestError,
    SourceChanged,
    SourceUnavailable,
    UsageError,
)
from cdc_bridge.model.filter import NOTHING, Filter
from cdc_bridge.model.row import Raw, decode_exact, encode_exact
from cdc_bridge.model.security_context import SELF, Principal, SecurityContext
from cdc_bridge.model.subscription import EventKind, Item, Projection, Query, Subscription
from cdc_bridge.ports import Asked
from cdc_bridge.query.forms import QueryLimits
from cdc_bridge.query.parser import item_key
from cdc_bridge.settings import Settings

CONNECTIONS = 2


@dataclass(frozen=True, slots=True)
class Question:
    """A row and a client. `key` is text, or the JSON text of an object; `claims` is the JSON text of those of the
    client's token, None if it has none; the others are of its query.
    """

    collection: str
    key: str
    claims: str | None = None
    filter: str | None = None
    fields: tuple[str, ...] = ()
    event: EventKind | None = None
    changes_max: int = 10


@dataclass(frozen=True, slots=True)
class Explanation:
    """`refusal`: the error that the client's `subscribe` gets; `obstacles` say why policies cannot be evaluated then.
    `readable` and `hidden` are columns.

    `verdicts` are those of the changes in the log, the newest first; `now` is what the client would get of the row as
    it is, had it been inserted just now. `is_as_captured`: whether the row is what its newest change has left; None, if
    that is not known. `in_initial_data`: whether a client that subscribes now gets the row. `notes` say what could
    not be looked at, and what else the reader should know.
    """

    collection: Collection
    principal: Principal
    readable: tuple[str, ...]
    hidden: tuple[str, ...]
    reach: Reach
    verdicts: tuple[Verdict, ...]
    row_now: RowNow | None
    now: Verdict | None
    is_as_captured: bool | None
    in_initial_data: bool | None
    refusal: RequestError | None = None
    obstacles: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


async def explain(settings: Settings, question: Question) -> Explanation | None:
    """Return None where the table is not attached. Raises `UsageError` for a question that makes no sense, and
    `DatabaseError`.
    """
    principal, notes, refused = principal_of(settings, question.claims)
    raw = {"filter": _filter_of(question.filter), "fields": list(question.fields) or None}
    try:
        async with _opened(settings) as pool:
            return await _Explaining(settings, pool, principal, notes).explain(question, raw, refused)
    except (SourceUnavailable, PoolTimeout) as error:
        raise DatabaseUnreachable(f"the database does not answer: {error}; try again") from None


def principal_of(settings: Settings, claims: str | None) -> tuple[Principal, list[str], RequestError | None]:
    """Return the principal of a client, what has to be said of it, and the error if its token is refused.

    Raises `UsageError`.
    """
    rules = RuleSet(tuple(settings.rules))
    roles = Roles(frozenset(settings.roles), settings.anon_role, rules.names, settings.insecure_public)
    if claims is None:
        anonymous = roles.nobody()
        return anonymous or SELF, [] if anonymous else [_NOTHING_IS_PUBLIC], None
    try:
        found = read_claims(claims.encode(errors="surrogatepass"))
    except TokenRefused as refused:
        raise UsageError(f'--as: {refused}; expected an object such as {{"role":"web","sub":"1"}}') from None
    role = found.values.get("role", settings.anon_role)
    if not isinstance(role, str) or not role:
        raise UsageError('--as names no role, and there is no anon_role: add "role", as in the client\'s token')
    text = found.text if "role" in found.values else with_role(found.text, role)
    notes = ["the claims have expired (exp)"] if found.values.get("exp", math.inf) < time.time() else []
    try:
        return roles.principal(role, text), notes, None
    except TokenRefused:
        knows_roles = bool(settings.roles or settings.rules)
        return Principal(role, role, text), [*notes, _UNKNOWN_ROLE], authentication_failed() if knows_roles else None


_NOTHING_IS_PUBLIC = (
    "clients without a token may see nothing by these settings (neither anon_role nor insecure_public is set): this is"
    " what the bridge itself may see"
)
_UNKNOWN_ROLE = (
    "these settings name the role neither in roles nor in a rule, so a bridge that has them refuses its tokens: the"
    " conditions are judged as if roles named it"
)


def _filter_of(text: str | None) -> dict[str, Any] | None:
    try:
        found = None if text is None else decode_exact(text)
    except ValueError:
        found = text
    if found is not None and not isinstance(found, dict):
        raise UsageError('--filter is not a JSON object, such as \'{"text":{"_eq":"hello"}}\'')
    return found


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Pool]:
    connector = Connector(settings.conninfo, settings.connect_timeout_s)
    await (await connector.connect(READ)).close()  # raises what a pool would only try again
    timeout_s, delay_s = settings.connect_timeout_s, settings.reconnect_delay_max_s
    pools = ReadPools(
        settings.conninfo, settings.schema_name, connector, connect_timeout_s=timeout_s, reconnect_delay_max_s=delay_s
    )
    async with pools.open(CONNECTIONS) as pool:
        yield pool


class _Explaining:
    """Answers one question. See the module's docstring."""

    def __init__(self, settings: Settings, pool: Pool, principal: Principal, notes: Sequence[str]) -> None:
        self._pool = pool
        self._schema = settings.schema_name
        self._principal = principal
        self._notes = list(notes)
        roles = {*settings.roles, settings.anon_role, principal.role or ""} - {""}
        names, relations = settings.collections, settings.relations
        self._catalog_reader = PooledCatalogReader(
            pool, settings.conninfo, self._schema, names, relations, roles=tuple(sorted(roles))
        )
        self._evaluator = PooledRowEvaluator(
            pool, statement_timeout_s=settings.evaluation_timeout_s, rest_s=settings.evaluation_rest_s
        )
        self._limits = QueryLimits(**{each.name: getattr(settings, each.name) for each in fields(QueryLimits)})
        self._parser = QueryParser(self._evaluator, self._limits, AccessPolicy(RuleSet(tuple(settings.rules))))
        self._reader = SnapshotReader(pool, self._schema)

    async def explain(
        self, question: Question, raw: Mapping[str, Any], refusal: RequestError | None
    ) -> Explanation | None:
        catalog = await self._catalog_reader.read()
        collection = tables_of(catalog, question.collection)
        if collection is None:
            return None
        self._require_role(catalog)
        key = await self._key(question.key, collection)
        plain = await self._parse_plainly(raw, collection, catalog)
        parsed = ParsedQuery(collection, _NOTHING_ASKED, SecurityContext(self._principal))
        try:
            parsed = await self._parser.parse(raw, collection.name, catalog, self._principal, to_follow=True)
            parsed.require(question.event)
        except RequestError as error:
            refusal = refusal or error
        row_now = await read_row_now(self._pool, collection, key)  # before the log, which so has all that led to it
        if row_now is None:
            self._notes.append("the row as it is now: the role that explain connects as may not SELECT the table")
        reach = await read_reach(self._pool, self._schema, collection)
        changes_max = question.changes_max if collection.durable else 0
        changes = await find_changes(self._pool, self._schema, collection, key, changes_max)
        judge = self._judge(parsed, question.event, collection, catalog, plain if refusal is None else [])
        seen = self._parser.access.view(self._principal, catalog).by_name.get(collection.name)
        readable = seen.names if seen else ()
        return Explanation(
            collection,
            self._principal,
            readable,
            tuple([name for name in collection.names if name not in readable]),
            reach,
            tuple([await judge.verdict(change) for change in changes]),
            row_now,
            await judge.verdict(_inserted(row_now, collection)) if row_now and row_now.row else None,
            _is_as_captured(row_now, changes, collection, key),
            None if refusal else await self._is_in_initial_data(parsed, key, catalog),
            refusal,
            await judge.obstacles() if refusal else (),
            tuple(self._notes),
        )

    def _require_role(self, catalog: Catalog) -> None:
        role = self._principal.role
        if role is not None and role not in catalog.access.roles:
            [problem] = role_problems([role], catalog.access).values()
            raise DatabaseError(f'the role "{role}" cannot be taken: {problem}')

    async def _key(self, text: str, collection: Collection) -> Key:
        if not collection.key:
            raise UsageError(f"{collection.name} has no primary key that clients see, so no row of it can be named")
        item: Item = text
        if text.startswith("{"):
            with suppress(ValueError):
                found = json.loads(text)
                item = found if found.keys() == set(collection.key) else text
        try:
            return await find_key(self._pool, collection, item_key(item, collection))
        except RequestError:
            columns = ", ".join(f"{column.name} {column.type.name}" for column in collection.key_columns)
            form = "" if len(collection.key) == 1 else ", which has to be a JSON object of these"
            raise UsageError(f"{text} is no key of {collection.name} ({columns}){form}") from None

    async def _parse_plainly(
        self, raw: Mapping[str, Any], collection: Collection, catalog: Catalog
    ) -> list[tuple[str, Filter]]:
        """Return the parts of the client's filter, each as it was written. Raises `UsageError` for a query that nobody
        could make, whatever its rights are.
        """
        parser = QueryParser(self._evaluator, self._limits, AccessPolicy())
        everybody = Catalog(catalog.by_name.values())
        anybody = replace(self._principal, role=None, name="")

        async def parse(query: Mapping[str, Any]) -> Filter:
            return (await parser.parse(query, collection.name, everybody, anybody, to_follow=False)).query.filter

        try:
            await parse(raw)
            return [(encode_exact(part), await parse({"filter": part})) for part in _parts(raw["filter"] or {})]
        except RequestError as error:
            raise UsageError(f"no client could ask that: {error.message}") from None

    def _judge(
        self,
        parsed: ParsedQuery,
        event: EventKind | None,
        collection: Collection,
        catalog: Catalog,
        plain: Sequence[tuple[str, Filter]],
    ) -> Judge:
        policies = catalog.access.to(collection.relation_id, self._principal.role).policies
        conditions = [
            *(Condition("filter", text, filter_) for text, filter_ in plain),
            Condition("rule", "", parsed.context.rows_of(collection.relation_id)),
            *policy_conditions(collection, policies or ()),
        ]
        subscription = Subscription(
            parsed.collection,
            parsed.query,
            event,
            context=parsed.context,
            rights=parsed.rights,
            allowed=parsed.allowed,
            is_guarded=parsed.is_guarded,
        )
        has_policies = policies is not None
        return Judge(subscription, catalog, self._evaluator, conditions, has_policies=has_policies)

    async def _is_in_initial_data(self, parsed: ParsedQuery, key: Key, catalog: Catalog) -> bool | None:
        """Read the row as a client that subscribes now would."""
        if not parsed.collection.key:
            self._notes.append("the initial data: the role may not SELECT the key by which the row would be found")
            return None
        asked = Asked(parsed.collection, replace(parsed.query, limit=1), key.values, parsed.context)
        try:
            return bool((await self._reader.read(asked, catalog)).rows)
        except (RequestError, SourceChanged) as error:
            self._notes.append(f"the initial data: {error}")
            return None


_NOTHING_ASKED = Query(Projection(()), filter=NOTHING)


def _parts(raw: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the parts of a filter that all have to match."""
    for member, value in raw.items():
        if member == "_and" and isinstance(value, list):
            for part in value:
                yield from _parts(part) if isinstance(part, dict) else iter([part])
        else:
            yield {member: value}


def _inserted(now: RowNow, collection: Collection) -> Change:
    """Return the change that would bring the row as it is."""
    assert now.row is not None
    filenode = collection.filenodes[collection.relation_id]
    return Change(Operation.INSERT, 0, now.xid or 0, collection.relation_id, filenode, new=(now.row,))


def _is_as_captured(now: RowNow | None, changes: Sequence[Change], collection: Collection, key: Key) -> bool | None:
    """Return whether the row is what the newest change that its snapshot sees has left."""
    newest = next((change for change in changes if now and now.snapshot.sees(change.xid)), None)
    if now is None or newest is None:
        return None
    encode_key = row_key(collection)
    assert encode_key is not None
    left = next((row for row in newest.new if encode_key(row) == key.encoded), None)
    if left is None or now.row is None:
        return left is now.row
    return all(
        _equal(column, left[column.name], now.row[column.name]) for column in collection.columns if column.name in left
    )


def _equal(column: Column, one: Raw, other: Raw) -> bool:
    encode = value_encoder(column.type) or bytes
    return encode(bytes(one)) == encode(bytes(other))
