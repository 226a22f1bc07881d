"""`cdc-bridge demo`."""

from __future__ import annotations

from typing import Annotated

import typer


def demo(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where the bridge listens; 0: any free port.")] = 8765,
    rounds: Annotated[int | None, typer.Option(min=1, help="End by itself after so many rounds of changes.")] = None,
    pause: Annotated[float, typer.Option(min=0, help="Seconds between two changes.")] = 1.0,
) -> None:
    """Show it all on this machine: a PostgreSQL of its own, a bridge, a writer and what arrives.

    Ctrl-C ends it and removes every trace. It needs no database. From a clone, install it with
    pip install '.[demo]'.

    \b
    Example:
      cdc-bridge demo --port 8765
    """  # noqa: D301 - the \b is meant
    from cdc_bridge.demo import show

    show.run(port, rounds, pause)
