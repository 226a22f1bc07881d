"""A container engine, and the images that the tests need of it.

The engine is the one that answers, else one that we start: root, with `dockerd`, in a folder of its own, so that
it ends and vanishes without touching what the machine's own engine may hold. In an engine that answers, the
images cdc-bridge-test-base, -postgres and -prometheus stay, which makes the next run quick.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
IMAGES = Path(__file__).parent / "images"
COMPOSE = ROOT / "docker" / "compose.yaml"

ANSWERS_WITHIN_S = 5
STARTS_WITHIN_S = 30
STOPS_WITHIN_S = 30
PULLED_WITHIN_S = 300
BUILT_WITHIN_S = 600

PYTHON = "python:3.13-slim"
SIDECAR, BASE = "cdc-bridge-test", "cdc-bridge-test-base"


class Unavailable(Exception):
    """Why the tests cannot run here; a sentence for the person who wonders."""


class CommandFailed(Exception):
    def __init__(self, command: tuple[str, ...], output: str) -> None:
        super().__init__(command, output)
        self.output = output

    def __str__(self) -> str:
        return f"{' '.join(self.args[0])} failed:\n{self.output}"

    @property
    def last_line(self) -> str:
        return (self.output.strip().splitlines() or ["no output"])[-1]


@dataclass(frozen=True, slots=True)
class Engine:
    """What `docker` talks to: `address` as DOCKER_HOST spells it, or its own default."""

    address: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | ({"DOCKER_HOST": self.address} if self.address else {})

    def __call__(self, *arguments: str, timeout: float = 60, **variables: str) -> str:
        """Run `docker` with these arguments; what it prints on stdout and stderr."""
        return run("docker", *arguments, timeout=timeout, env=self.environment | variables)

    def answers(self) -> bool:
        with contextlib.suppress(CommandFailed):
            return bool(self("version", "--format", "{{.Server.Version}}", timeout=ANSWERS_WITHIN_S))
        return False

    def has(self, image: str) -> bool:
        with contextlib.suppress(CommandFailed):
            return bool(self("image", "inspect", image))
        return False

    def build(self, tag: str, context: Path, *options: str) -> str:
        """Build an image with the host's network and its ways to the package indexes."""
        arguments = [part for setting in _build_settings() for part in ("--build-arg", setting)]
        command = ("build", "--network", "host", "--tag", tag, *options, *arguments, str(context))
        self(*command, timeout=BUILT_WITHIN_S)
        return tag


def run(*command: str, timeout: float, **keywords: Any) -> str:
    """The output of a command that must succeed; raises `CommandFailed`."""
    try:
        done = subprocess.run(
            command,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **keywords,
        )
    except FileNotFoundError:
        raise CommandFailed(command, f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise CommandFailed(command, f"no end within {timeout:g} s") from None
    if done.returncode:
        raise CommandFailed(command, done.stdout)
    return done.stdout.strip()


@contextlib.contextmanager
def running_engine() -> Iterator[Engine]:
    """The engine that answers, else one of our own; raises `Unavailable`."""
    if os.environ.get("CDC_BRIDGE_TEST_DOCKER") == "off":
        raise Unavailable("CDC_BRIDGE_TEST_DOCKER is off")
    if not shutil.which("docker"):
        raise Unavailable("there is no command docker (Debian: apt-get install docker.io docker-cli debootstrap)")
    if Engine().answers():
        yield Engine()
        return
    if os.geteuid() != 0 or not shutil.which("dockerd"):
        raise Unavailable("no engine answers, and starting one takes root and the program dockerd")
    if _runs("dockerd"):
        raise Unavailable("a dockerd runs here but does not answer, and a second one would disturb its network")
    with _engine_of_our_own() as engine:
        yield engine


def _runs(program: str) -> bool:
    """Whether a process of this name runs."""
    for name in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):  # it may end while we look
            if name.read_text().strip() == program:
                return True
    return False


@contextlib.contextmanager
def _engine_of_our_own() -> Iterator[Engine]:
    folder = Path(tempfile.mkdtemp(prefix="cdc-bridge-docker-"))
    engine = Engine(f"unix://{folder}/docker.sock")
    log = folder / "log"
    command = ["dockerd", "--host", str(engine.address), "--pidfile", str(folder / "pid"), "--bridge", "none"]
    command += ["--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")]
    with log.open("wb") as output:
        # In a session of its own: Ctrl-C must not end it before its containers are gone.
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        _await_start(engine, process, log)
        yield engine
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOPS_WITHIN_S)
        process.kill()
        _unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _unmount_below(folder: Path) -> None:
    """dockerd leaves a network namespace mounted."""
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for point in sorted(points, reverse=True):
        if point.startswith(f"{folder}/"):
            with contextlib.suppress(CommandFailed):
                run("umount", point, timeout=60)


def _await_start(engine: Engine, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not engine.answers():
        if process.poll() is not None or time.monotonic() > deadline:
            last_lines = log.read_text(errors="replace").strip().splitlines()[-3:]
            raise Unavailable(f"dockerd does not start: {' '.join(last_lines)}")
        time.sleep(0.2)


def base_image(engine: Engine) -> str:
    """What the sidecar is built on: the Dockerfile's default where it is to be had, else a bare Debian."""
    chosen = os.environ.get("CDC_BRIDGE_TEST_BASE_IMAGE")
    if chosen or (why_not := why_missing(engine, PYTHON)) is None:
        return chosen or PYTHON
    if engine.has(BASE):
        return BASE
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        raise Unavailable(f"{why_not}, and making a base image takes root and the program debootstrap")
    try:
        run("bash", str(IMAGES / "base.sh"), BASE, timeout=BUILT_WITHIN_S, env=engine.environment)
    except CommandFailed as error:
        raise Unavailable(f"{why_not}, and debootstrap fails: {error.last_line}") from None
    return BASE


def companion_image(engine: Engine, base: str, service: str, chosen: str | None = None) -> str:
    """The image that the compose file has for a service where it is to be had, else what Debian has of it."""
    official = chosen or official_image(service)
    if chosen or why_missing(engine, official) is None:
        return official
    debians = f"cdc-bridge-test-{service}"
    if not engine.has(debians):
        engine.build(debians, IMAGES / service, "--build-arg", f"BASE_IMAGE={base}")
    return debians


def official_image(service: str) -> str:
    [name] = set(re.findall(rf"\$\{{{service.upper()}_IMAGE:-(.+?)\}}", COMPOSE.read_text()))
    return name


def sidecar_image(engine: Engine, base: str) -> str:
    dockerfile = str(ROOT / "docker" / "Dockerfile")
    return engine.build(SIDECAR, ROOT, "--file", dockerfile, "--build-arg", f"BASE_IMAGE={base}")


def why_missing(engine: Engine, image: str) -> str | None:
    """Why the image is not to be had, or None when it is here now."""
    if engine.has(image):
        return None
    try:
        engine("pull", image, timeout=PULLED_WITHIN_S)
    except CommandFailed as error:
        return f"{image} cannot be pulled ({error.last_line})"
    return None


def _build_settings() -> list[str]:
    """Build arguments that carry this machine's proxies and package indexes into a build."""
    proxies = {f"{kind}_proxy" for kind in ("http", "https", "no")}
    found = {name: value for name, value in os.environ.items() if name.lower() in proxies}
    for line in run(sys.executable, "-m", "pip", "config", "list", timeout=60).splitlines():
        name, _, value = line.partition("=")
        variable = "PIP_" + name.rpartition(".")[2].upper().replace("-", "_")
        if variable in {"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT"}:
            found[variable] = value.strip("'\"").replace("\\n", " ")
    return [f"{name}={value}" for name, value in found.items()]
