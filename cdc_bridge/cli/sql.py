"""`cdc-bridge sql`."""

from __future__ import annotations

from cdc_bridge.cli.options import Config, SchemaName, load
from cdc_bridge.cli.output import say


def sql(schema_name: SchemaName = None, config: Config = None) -> None:
    """Print our SQL, for those who install it by their own migrations.

    It makes the schema with its change log and functions, and changes no table of yours; attach does that.

    \b
    Example:
      cdc-bridge sql > migrations/0042_cdc_bridge.sql
    """  # noqa: D301 - the \b is meant
    from cdc_bridge import statements

    settings = load(config, {"schema": schema_name})
    say(statements.script(settings.schema_name).rstrip())
