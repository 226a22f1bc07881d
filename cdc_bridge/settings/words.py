"""How a setting is called by each of its sources, and which values it accepts, in words."""

from __future__ import annotations

from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from cdc_bridge.settings.members import FIELDS, PREFIX


def variable(name: str) -> str:
    """The setting as the environment spells it."""
    return PREFIX + name.upper()


def flag(name: str) -> str:
    """The setting as a flag of `serve`. (`attach --schema` already says where the tables are.)"""
    return "--schema-name" if name == "schema" else "--" + name.replace("_", "-")


def allowed(name: str) -> str:
    """Which values a setting accepts, in words."""
    info = FIELDS[name]
    extra = info.json_schema_extra
    if isinstance(extra, dict) and extra["allowed"]:
        return str(extra["allowed"])
    if info.annotation is bool:
        return "true or false"
    if get_origin(info.annotation) is Literal:
        words = [str(word) for word in get_args(info.annotation)]
        return f"{', '.join(words[:-1])} or {words[-1]}"
    return ("a whole number" if info.annotation is int else "a number") + _bounds(info)


def _bounds(info: FieldInfo) -> str:
    names = ("ge", "gt", "le")
    match {name: getattr(part, name) for part in info.metadata for name in names if hasattr(part, name)}:
        case {"ge": low, "le": high}:
            return f" from {low} to {high}"
        case {"ge": low}:
            return f" of {low} or more"
        case {"gt": low}:
            return f" above {low}"
    return ""
