"""Values back from the JSON that `row_to_json` wrote of them.

Almost every type is read as it was written. What is not:
- json and jsonb come as text: PostgreSQL reads strings inside of a json too, and stumbles over what only a json can
  hold; and as JSON a null would always be NULL, where it may be that of a jsonb (see `doubts`);
- hstore and the types of PostGIS, which are cast to a JSON of their own.
"""

from __future__ import annotations

from psycopg import sql

from cdc_bridge.database.fragments import Name, TypeName, home
from cdc_bridge.model.catalog import PgType

JSON = PgType("json")
TEXT = PgType("text")

_OF_JSON = {
    "hstore": (
        "CASE WHEN {value} IS NOT NULL THEN (SELECT coalesce({schema}.hstore(pg_catalog.array_agg(e.key),"
        " pg_catalog.array_agg(e.value)), ''::{type}) FROM pg_catalog.json_each_text({value}) AS e) END"
    ),
    "geometry": "{schema}.ST_GeomFromGeoJSON({value}::text)",
    "geography": "{schema}.ST_GeomFromGeoJSON({value}::text)::{type}",
}


def has_own_json(type_: PgType) -> bool:
    place = home(type_)
    return place is not None and place[1] in _OF_JSON


def carrier(type_: PgType) -> PgType:
    """The type as which a value is to be read from JSON."""
    if type_.is_json:
        return TEXT
    return JSON if has_own_json(type_) else type_


def restored(value: sql.Composable, type_: PgType) -> sql.Composable:
    """The value, once it has been read as its `carrier`."""
    if type_.is_json:
        return sql.SQL("{}::{}").format(value, TypeName(type_))
    place = home(type_)
    if place is None or place[1] not in _OF_JSON:
        return value
    return sql.SQL(_OF_JSON[place[1]]).format(value=value, schema=Name(place[0]), type=TypeName(type_))
