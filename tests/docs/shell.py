"""Commands in the shell blocks of the pages, and whether the command line that we have would take them."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import PurePath

import typer
import typer.main

from cdc_bridge.cli.app import app

PROGRAM = typer.main.get_group(app)
BETWEEN = {"|", "||", "&", "&&", ";", "(", ")", "{", "}", "then", "do", "else", "!"}
IN_FRONT = {"exec", "env", "nohup", "time", "sudo"}
CONTAINERS = {"docker", "podman", "kubectl", "oc"}


def commands(script: str) -> Iterator[list[str]]:
    """Yield each simple command with its words, also those that a `$(...)` holds."""
    for words in lines(script):
        for between, command in itertools.groupby(words, BETWEEN.__contains__):
            if not between:
                yield list(command)
        for word in words:
            for inner in re.findall(r"\$\((.*?)\)", word):
                yield from commands(inner)


def lines(script: str) -> Iterator[list[str]]:
    """Yield the words of each line. A line goes on past a backslash at its end, and past a quote that is open."""
    script = re.sub(r"<<-?\s*['\"]?(\w+)['\"]?(.*)\n(?:.*\n)*?\s*\1$", r"\2", script, flags=re.MULTILINE)
    unfinished = ""
    for line in script.replace("\\\n", " ").splitlines():
        unfinished += line
        lexer = shlex.shlex(unfinished, posix=True, punctuation_chars=True)
        lexer.wordchars += "{}$[]!@%^,:"
        try:
            words = list(lexer)
        except ValueError:  # No closing quotation
            unfinished += "\n"
            continue
        unfinished = ""
        yield words
    assert not unfinished, f"a quote is never closed: {unfinished}"


def of_ours(command: Sequence[str]) -> Sequence[str] | None:
    """Return the arguments of a `cdc-bridge`, run here or in a container; None if it is another program."""
    words = list(itertools.dropwhile(lambda word: re.match(r"\w+=", word) or word in IN_FRONT, command))
    names = [PurePath(word).name for word in words]
    if names and names[0] == "cdc-bridge":
        return words[1:]
    in_container = bool(names) and names[0] in CONTAINERS and bool({"run", "exec"} & {*names})
    if in_container and "cdc-bridge" in names and "--entrypoint" not in names:
        return words[len(names) - names[::-1].index("cdc-bridge") :]
    return None


def check(arguments: Sequence[str]) -> None:
    """Raise what the command line would be refused with. Nothing is run."""
    words = [word for word in without_redirections(arguments) if word != "--traceback"]
    if not words:
        return  # it prints its help, or what completes words in a shell
    try:
        with PROGRAM.make_context("cdc-bridge", list(words)) as group:
            name, command, rest = PROGRAM.resolve_command(group, [*group._protected_args, *group.args])
            assert command
            command.make_context(name, rest, parent=group)
    except typer.Exit:  # --help and --version
        pass


def without_redirections(words: Sequence[str]) -> Iterator[str]:
    """Yield the words up to the first `>` or `<`."""
    return itertools.takewhile(lambda word: not re.fullmatch(r"[<>&]+", word), words)
