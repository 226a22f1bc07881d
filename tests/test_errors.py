"""Errors: one tree, told in the docstring of its module; facts as attributes and a sentence for people."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator

import pytest

import cdc_bridge
from cdc_bridge.model import errors
from cdc_bridge.model.errors import (
    BridgeError,
    CannotServe,
    ClusterFailed,
    LockHolder,
    LockNotAcquired,
    NotInstalled,
    NotOwner,
    SchemaClosed,
)


def test_docstring_draws_the_tree_of_the_classes() -> None:
    parents = {cls.__name__: cls.__bases__[0].__name__ for cls in _exceptions() if issubclass(cls, BridgeError)}
    assert dict(_drawn()) | {"BridgeError": "Exception"} == parents


def test_errors_of_the_tree_stand_in_one_module_and_the_docstring_names_the_others() -> None:
    outside = {cls for cls in _exceptions() if cls.__module__ != errors.__name__ and not cls.__name__.startswith("_")}
    assert not any(issubclass(cls, BridgeError) for cls in outside)
    assert errors.__doc__ is not None
    named = re.findall(r"`([a-z_.]+\.[A-Z]\w+)`", errors.__doc__)
    assert set(named) == {f"{cls.__module__.removeprefix('cdc_bridge.')}.{cls.__name__}" for cls in outside}


def test_docstring_tells_the_exit_codes() -> None:
    assert errors.__doc__ is not None
    told = {name: int(code) for name, code in re.findall(r"─ (\w+) .*\(exit code (\d)\)", errors.__doc__)}
    own = {cls.__name__: vars(cls)["exit_code"] for cls in _exceptions() if "exit_code" in vars(cls)}
    assert told | {"BridgeError": 1} == own


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            NotInstalled("cdc"),
            'this database has no schema "cdc" of cdc_bridge: attach a table first (cdc-bridge attach TABLE)',
        ),
        (
            NotOwner("public.t", "ann"),
            'public.t belongs to the role "ann": connect as that role, or as a member of it',
        ),
        (
            SchemaClosed("ro", "cdc", "app"),
            'role "ro" may not use schema "cdc": connect as its owner, "app", or as the runtime role that cdc-bridge'
            " sql --roles makes",
        ),
        (
            CannotServe("127.0.0.1", 80, "Permission denied"),
            "cannot listen on 127.0.0.1:80 (permission denied): choose another port with --port, 0 for any,"
            " or another address",
        ),
        (
            LockNotAcquired("attach public.t", 0.5, (LockHolder(7, "reports", 61.2), LockHolder(8))),
            'attach public.t: no lock within 0.5 s. It is held by process 7 "reports", in a transaction for 61 s;'
            " process 8. Nothing was changed there; try again when that has ended",
        ),
        (
            LockNotAcquired("detach public.t", 1, (LockHolder(None, None, 9, "it's", "app"),)),
            "detach public.t: no lock within 1 s. It is held by the prepared transaction 'it''s', prepared 9 s ago:"
            " COMMIT PREPARED 'it''s' or ROLLBACK PREPARED 'it''s', as the role \"app\" or a superuser, ends it."
            " Nothing was changed there; try again when that has ended",
        ),
        (LockNotAcquired("lock timeout"), "lock timeout; try again when the table is less busy"),
        (ClusterFailed("initdb failed"), "initdb failed"),
    ],
)
def test_facts_become_a_sentence(error: BridgeError, sentence: str) -> None:
    assert str(error) == sentence


def _exceptions() -> Iterator[type[Exception]]:
    """All that are defined in our package."""
    for found in pkgutil.walk_packages(cdc_bridge.__path__, "cdc_bridge."):
        if found.name == "cdc_bridge.__main__" or found.name.startswith("cdc_bridge.sql"):
            continue
        module = importlib.import_module(found.name)
        for cls in vars(module).values():
            if inspect.isclass(cls) and issubclass(cls, Exception) and cls.__module__ == module.__name__:
                yield cls


def _drawn() -> Iterator[tuple[str, str]]:
    """Each name of the tree with the one it hangs on."""
    assert errors.__doc__ is not None
    path = ["BridgeError"]
    for indent, name in re.findall(r"^    ((?:│   |    )*)[├└]── (\w+)", errors.__doc__, re.MULTILINE):
        depth = len(indent) // 4 + 1
        path[depth:] = [name]
        yield name, path[depth - 1]
