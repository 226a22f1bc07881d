"""Options that several commands share, and the step from flags to `Settings`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_origin

import typer

from cdc_bridge import settings as s
from cdc_bridge.cli.output import complain
from cdc_bridge.model.errors import UsageError
from cdc_bridge.settings import Settings

Dsn: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--dsn",
        metavar="CONNINFO",
        help="The database; else CDC_BRIDGE_DSN, else libpq's own PG* variables.",
    ),
]

Config: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="A TOML file with settings; else cdc-bridge.toml where it is present.",
    ),
]

SchemaName: TypeAlias = Annotated[
    str | None,
    typer.Option("--schema-name", metavar="NAME", help="The schema of cdc_bridge in the database.  [cdc]"),
]

TABLES_HELP = "Tables, as messages or sales.orders; quote as in SQL: '\"Order Details\"'."


def load(config: Path | None, flags: Mapping[str, object]) -> Settings:
    """Settings of all sources; warnings about them go to stderr."""
    for sentence in s.unknown_variables():
        complain(f"warning: {sentence}")
    return s.load(flags, config)


def refuse_unclear_choice(tables: Collection[str] | None, every: bool) -> None:
    """The command acts on what was named, or on all; it never guesses."""
    if not tables and not every:
        raise UsageError("name the tables, or say --all")
    if tables and every:
        raise UsageError("name tables or say --all, not both")


def with_a_flag_for_each_setting(
    command: Callable[[Path | None, dict[str, object]], None],
) -> Callable[..., None]:
    """Give `command(config, flags)` the signature from which Typer reads one flag for each setting.

    Values stay text until `Settings` judges them, so that all sources obey the same rules.
    """

    def typed(config: Path | None, **flags: object) -> None:
        command(config, flags)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("config", keyword, default=None, annotation=Config)]
    parameters += [inspect.Parameter(name, keyword, default=None, annotation=_option(name)) for name in s.FIELDS]
    typed.__name__, typed.__doc__ = command.__name__, command.__doc__
    typed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    typed.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return typed


def _option(name: str) -> Any:
    info, flag = s.FIELDS[name], s.flag(name)
    words = f" {s.allowed(name).capitalize()}." if get_origin(info.annotation) is Literal else ""
    help_text = f"{info.description}{words}{_default(name)}"
    if info.annotation is bool:
        return Annotated[bool | None, typer.Option(f"{flag}/--no-{flag[2:]}", help=help_text)]
    return Annotated[str | None, typer.Option(flag, metavar=_metavar(info.annotation), help=help_text)]


def _default(name: str) -> str:
    default = s.FIELDS[name].default
    return f"  [{default}]" if isinstance(default, (str, int, float)) and default != "" else ""


def _metavar(annotation: object) -> str:
    if annotation in (int, float):
        return "NUMBER"
    return "JSON" if annotation == dict[str, str] else "TEXT"
