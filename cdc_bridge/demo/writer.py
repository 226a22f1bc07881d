"""The demo's application: it writes to the database and has never heard of a bridge."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from cdc_bridge.statements import read


@dataclass(frozen=True, slots=True)
class Step:
    """One statement of the story, and what it is about."""

    about: str
    statement: str


def schema() -> str:
    """The demo's tables and first rows."""
    return read("demo/schema")


def story() -> list[Step]:
    """One round of what the writer does."""
    return list(_steps(read("demo/story")))


def _steps(text: str) -> Iterator[Step]:
    for paragraph in text.split("\n\n"):
        lines = paragraph.strip().splitlines()
        comments = list(itertools.takewhile(lambda line: line.startswith("-- "), lines))
        if statement := "\n".join(lines[len(comments) :]):
            yield Step(" ".join(line.removeprefix("-- ") for line in comments), statement.removesuffix(";"))
