"""The values of a filter as SQL: parameters with a type."""

from __future__ import annotations

import msgspec
from psycopg import sql

from cdc_bridge.database.fragments import Name, Parameter, TypeName
from cdc_bridge.database.restoring import carrier, has_own_json, restored
from cdc_bridge.model.catalog import PgType, TypeKind
from cdc_bridge.model.filter import Literal, Now, Value
from cdc_bridge.model.instants import DAY_US, now_at


def literal(value: Value, type_: PgType, now_us: int) -> sql.Composable:
    """One value. `$NOW` is an instant; where the type has no zone, it is the one that clocks in UTC show."""
    if isinstance(value, Now):
        return _moment(now_at(value, now_us), type_)
    if is_scalar(type_):
        return sql.SQL("{}::{}").format(Parameter(text(value, type_)), TypeName(type_))
    return sql.SQL("(SELECT {} FROM pg_catalog.json_to_record({}::json) AS l(v {}))").format(
        restored(Name("l", "v"), type_), Parameter('{"v":' + value.raw.decode() + "}"), TypeName(carrier(type_))
    )


def is_scalar(type_: PgType) -> bool:
    """Whether its JSON is a string, or anything, but no structure that only PostgreSQL can read back."""
    return type_.kind not in (TypeKind.ARRAY, TypeKind.COMPOSITE) and not has_own_json(type_)


def text(value: Literal, type_: PgType) -> str:
    """A value as its type's input function takes it."""
    if value.raw[:1] == b'"' and not type_.is_json:
        return msgspec.json.decode(value.raw, type=str)
    return value.raw.decode()


def _moment(instant_us: int, type_: PgType) -> sql.Composed:
    """Days apart, so that no figure is so large that an interval would round it."""
    days, microseconds = divmod(instant_us, DAY_US)
    # float8, as PostgreSQL's own operator has it: nobody's `bigint * interval` fits better
    moment = sql.SQL(
        "('epoch'::timestamptz + pg_catalog.make_interval(days => {}::integer)"
        " + {}::float8 * '1 microsecond'::interval)"
    ).format(Parameter(days), Parameter(microseconds))
    if type_.name == "timestamp with time zone":
        return moment
    return sql.SQL("({} AT TIME ZONE 'UTC')").format(moment)
