"""The files of `sql/`: each statement has a name of its own and a line that says what it is for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cdc_bridge import statements

SQL = Path(__file__).parent.parent / "sql"
FOLDERS = sorted(path.name for path in SQL.iterdir() if path.is_dir() and any(path.glob("*.sql")))


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_name_stands_twice(folder: str) -> None:
    named: list[str] = []
    for path in (SQL / folder).glob("*.sql"):
        named += re.findall(r"^-- name: (.+)$", path.read_text(), re.MULTILINE) or [path.stem]
    assert sorted(f"{folder}/{name}" for name in named) == statements.names(folder)


@pytest.mark.parametrize(
    "name", [name for folder in ("queries", "steps", "triggers") for name in statements.names(folder)]
)
def test_every_statement_says_what_it_is_for(name: str) -> None:
    first, *rest = statements.read(name).splitlines()
    assert first.startswith("-- ")
    assert any(not line.startswith("--") for line in rest)


def test_statement_is_without_the_words_for_its_reader() -> None:
    assert statements.statement("queries/gap", "cdc").as_string().startswith("SELECT coalesce(")
