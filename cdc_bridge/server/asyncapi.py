"""The AsyncAPI document: the protocol, with a schema for each collection that the reader may read.

`asyncapi.json` has what is the same for all. The schemas are made of the catalog that the message `collections` shows
too, so the document needs no rights of its own: what is forbidden is not in that catalog.

Rule: a schema of a collection accepts every row that is sent of it, shaped by any `fields`.

Bound: `DOCUMENTS_MAX` documents at a time, each of `DOCUMENT_BYTES_MAX` bytes and within `DOCUMENT_TIMEOUT_S`. Policy:
past these the answer is 503. Other clients have their turn after each collection.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from http import HTTPStatus
from importlib.resources import files
from typing import Any, Protocol, TypeAlias

import msgspec
from websockets.datastructures import Headers

from cdc_bridge import __version__
from cdc_bridge.access.auth_state import AuthMode
from cdc_bridge.access.authenticator import Authenticator
from cdc_bridge.model.catalog import Catalog, Collection, Column, PgType, TypeKind
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.security_context import Principal

ASYNCAPI_PATH = "/asyncapi.json"

DOCUMENTS_MAX = 8
DOCUMENTS_OF_ADDRESS_MAX = 2

DOCUMENT_BYTES_MAX = 8 * 1024 * 1024

DOCUMENT_TIMEOUT_S = 20.0
"""The time to make a document, and again the time to send it."""

HEADERS: Mapping[str, str] = {
    "Content-Type": "application/json",
    "Cache-Control": "no-store",  # rights change, and tokens differ
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}

WANTS_TOKEN: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}

Response: TypeAlias = tuple[HTTPStatus, str, Mapping[str, str]]
"""Status, text and headers."""

Schema: TypeAlias = dict[str, Any]


class CatalogReader(Protocol):
    """Reads what a principal may see of the catalog. Raises `RequestError`."""

    async def read_collections(self, principal: Principal) -> Catalog: ...


async def respond(
    headers: Headers,
    token: str | None,
    scheme: str,
    *,
    mode: AuthMode,
    authenticator: Authenticator,
    reader: CatalogReader,
) -> Response:
    """Return the document for the bearer of a token; without one, for an anonymous client if such may connect."""
    try:
        async with asyncio.timeout(DOCUMENT_TIMEOUT_S):
            if (principal := await _principal(headers, token, mode, authenticator)) is None:
                text = "a token is needed: Authorization: Bearer TOKEN, or ?access_token=TOKEN\n"
                return HTTPStatus.UNAUTHORIZED, text, WANTS_TOKEN
            catalog = await reader.read_collections(principal)
            return HTTPStatus.OK, await document(catalog, headers.get("Host", ""), scheme), HEADERS
    except RequestError as error:
        if error.code == "AUTH_FAILED":
            return HTTPStatus.UNAUTHORIZED, "a good token is needed\n", WANTS_TOKEN
        status = HTTPStatus.FORBIDDEN if error.code == "FORBIDDEN" else HTTPStatus.SERVICE_UNAVAILABLE
        return status, f"{error.message}\n", {}
    except TimeoutError:
        return HTTPStatus.SERVICE_UNAVAILABLE, "the database does not answer; try again later\n", {}


async def _principal(
    headers: Headers, token: str | None, mode: AuthMode, authenticator: Authenticator
) -> Principal | None:
    """Return the principal of a request; None for one without a token that needs one. Raises `RequestError`."""
    for header in headers.get_all("Authorization"):  # a proxy may have put others there: Basic is none of ours
        scheme, _, credentials = header.partition(" ")
        if scheme.lower() == "bearer":
            token = credentials.strip()
    if token is not None:
        return (await authenticator.identify(token)).principal
    return authenticator.anonymous() if mode is AuthMode.PUBLIC else None


async def document(catalog: Catalog, host: str, scheme: str) -> str:
    """Return the document for what this catalog shows. Raises `RequestError` if that is too much."""
    schemas: dict[str, msgspec.Raw] = {}
    size_bytes = 0
    for collection in catalog.by_name.values():
        encoded = msgspec.json.encode(collection_schema(collection, catalog))
        schemas[component(collection.name)] = msgspec.Raw(encoded)
        size_bytes += len(encoded)
        if size_bytes > DOCUMENT_BYTES_MAX:
            reason = f"the document would have more than {DOCUMENT_BYTES_MAX} bytes: ask as a role that may read less"
            raise RequestError("SERVICE_UNAVAILABLE", reason)
        await asyncio.sleep(0)
    common = _common()
    rows = [{"$ref": _path(name)} for name in catalog.by_name]
    ours = common["components"]["schemas"] | {
        "cdc-collection": {"type": "string", "enum": list(catalog.by_name)} if rows else {"type": "string"},
        "cdc-row": {"anyOf": [*rows, {"type": "object", "description": "Figures of `aggregate`, or renamed fields."}]},
    }
    servers = {"bridge": common["servers"]["bridge"] | {"host": host, "protocol": scheme}}
    components = common["components"] | {"schemas": ours | schemas}
    return msgspec.json.encode(common | {"servers": servers, "components": components}).decode()


@cache
def _common() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((files("cdc_bridge.server") / "asyncapi.json").read_text(encoding="utf-8"))
    found["info"]["version"] = __version__
    return found


def component(name: str) -> str:
    """Return the key of a collection's schema, for which AsyncAPI allows letters, digits and `.`, `-`, `_` only.

    Another character is written as its code between two hyphens. So no two names have one key, and none has a key of
    ours, since these contain one hyphen.
    """
    return re.sub(r"[^A-Za-z0-9._]", lambda found: f"-{ord(found[0]):x}-", name)


def _path(name: str) -> str:
    return f"#/components/schemas/{component(name)}"


# --- schemas ---


def collection_schema(collection: Collection, catalog: Catalog) -> Schema:
    """Return the schema of rows. `x-key` names the columns of the key; none where it may not be read."""
    properties = {column.name: _column(column) for column in collection.columns}
    for name, reference in collection.by_reference.items():
        target = catalog.by_relation_id[reference.target_id]
        row = {"$ref": _path(target.name)}
        if reference.is_many:
            key = [_column(column) for column in target.key_columns] if len(target.key) == 1 else []
            properties[name] = {"type": "array", "items": {"anyOf": [row, *key]}}
        else:  # null: a row that may not be seen
            properties[name] = {"anyOf": [properties[name], row, {"type": "null"}]}
    return {"type": "object", "title": collection.name, "x-key": collection.key, "properties": properties}


def _column(column: Column) -> Schema:
    schema = type_schema(column.type)
    return {"description": column.type.name} | (nullable(schema) if column.is_nullable else schema)


def nullable(schema: Schema) -> Schema:
    """Return a schema that also accepts null."""
    if "anyOf" in schema:
        return schema | {"anyOf": [*schema["anyOf"], {"type": "null"}]}
    if "type" not in schema:
        return schema
    labels: Schema = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return schema | {"type": [schema["type"], "null"]} | labels


@lru_cache(1000)
def type_schema(type_: PgType) -> Schema:
    """Return the schema of a value that is not null, as `model/encoding.py` writes it."""
    match type_.kind:
        case TypeKind.ARRAY if type_.element is not None:
            inner = {"type": ["array", "null"]}  # of more dimensions, which PostgreSQL does not declare
            return {"type": "array", "items": {"anyOf": [type_schema(type_.element), inner]}}
        case TypeKind.COMPOSITE:
            return {"type": "object", "properties": {name: nullable(type_schema(each)) for name, each in type_.fields}}
    if type_.labels:
        return {"type": "string", "enum": list(type_.labels)}
    if type_.name in _SCHEMAS:
        return _SCHEMAS[type_.name]
    return {} if "." in type_.name else {"type": "string"}  # a type of an extension can have a cast to json


_FLOAT: Schema = {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}

_SCHEMAS: Mapping[str, Schema] = {
    "smallint": {"type": "integer", "minimum": -(2**15), "maximum": 2**15 - 1},
    "integer": {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
    "bigint": {"type": "string", "pattern": "^-?[0-9]+$"},
    "numeric": {"type": "string", "pattern": "^(-?[0-9]+([.][0-9]+)?|NaN|-?Infinity)$"},
    "real": _FLOAT,
    "double precision": _FLOAT,
    "boolean": {"type": "boolean"},
    "json": {},
    "jsonb": {},
    "bytea": {"type": "string", "pattern": "^\\\\x([0-9a-f]{2})*$"},
    "uuid": {"type": "string", "format": "uuid"},
    "date": {"type": "string", "format": "date"},
    "timestamp with time zone": {"type": "string", "format": "date-time"},
    "interval": {"type": "string", "format": "duration"},
}
