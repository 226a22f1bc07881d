"""The public keys that the issuer publishes, as far as we know them.

Rule: what a well-formed set says is believed, and stays so until the next one is read, however long the issuer is down.
A key that no set has named is never good. Sets are read one at a time: at the start, every `refresh_s`, and when a
token names a key that is not known, but then not within `pause_s` of the last time, so that nobody can have us bother
the issuer with invented names. Whoever asks while a set is being read waits for that one.

Theory: a token of a known key never waits for the issuer, so one that hangs locks out nobody; and since sets are read
also when nobody asks, a key that the issuer has withdrawn is gone after `refresh_s`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from cdc_bridge.access import keys
from cdc_bridge.access.fetching import fetch
from cdc_bridge.access.keys import Key
from cdc_bridge.logs import facts

log = logging.getLogger(__name__)

SET_BYTES_MAX = 256 * 1024

LATE_S = 1.0
"""How much longer than the reading may take somebody waits for it."""


class PublishedKeys:
    """See the module's docstring. `keep_fresh` has to run beside whoever asks."""

    def __init__(self, url: str, *, within_s: float = 5, refresh_s: float = 300, pause_s: float = 5) -> None:
        self._url = url
        self._within_s = within_s
        self._refresh_s = refresh_s
        self._pause_s = pause_s
        self._keys: tuple[Key, ...] = ()
        self._wanted = asyncio.Event()
        self._read = asyncio.Event()
        self._is_reading = False
        self._begun_s = float("-inf")
        self._call: asyncio.Future[bytes] | None = None
        self._is_failing = False

    async def keep_fresh(self) -> None:
        """Runs until it is cancelled."""
        while True:
            await self._read_once()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._refresh_s):
                    await self._wanted.wait()

    async def named(self, algorithm: str, kid: str | None) -> Sequence[Key]:
        """The keys by which a token may be signed that names `kid`, or none."""
        found = self._known(algorithm, kid)
        if not found:
            await self._read_anew()
            found = self._known(algorithm, kid)
        return found

    def _known(self, algorithm: str, kid: str | None) -> Sequence[Key]:
        return [key for key in self._keys if key.algorithm == algorithm and kid in (None, key.kid)]

    async def _read_anew(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if not self._is_reading and now_s - self._begun_s < self._pause_s:
            return
        self._wanted.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._within_s + LATE_S):
                await self._read.wait()

    async def _read_once(self) -> None:
        self._wanted.clear()
        self._begun_s = asyncio.get_running_loop().time()
        self._is_reading = True
        try:
            found = keys.published(await self._fetch())
        except (OSError, ValueError) as error:
            self._tell_failure(error)
        else:
            self._tell_success(found)
            self._keys = found
        finally:
            self._is_reading = False
            self._read.set()
            self._read = asyncio.Event()

    async def _fetch(self) -> bytes:
        """One thread at a time: what nobody waits for any more may still hang in one."""
        loop = asyncio.get_running_loop()
        if self._call is None or self._call.done():
            self._call = loop.run_in_executor(None, fetch, self._url, self._within_s, SET_BYTES_MAX)
            self._call.add_done_callback(_heard)
        done, _ = await asyncio.wait([self._call], timeout=self._within_s)
        if not done:
            raise TimeoutError(f"no answer within {self._within_s:g} s")
        call, self._call = self._call, None
        return call.result()

    def _tell_failure(self, error: Exception) -> None:
        if not self._is_failing:
            log.warning(
                "cannot read the issuer's keys: those that are known stay good, others are refused",
                extra=facts(reason=_reason(error), known=len(self._keys)),
            )
        self._is_failing = True

    def _tell_success(self, found: Sequence[Key]) -> None:
        if self._is_failing or {key.kid for key in found} != {key.kid for key in self._keys} or not found:
            log.log(
                logging.INFO if found else logging.WARNING,
                "the issuer's keys were read",
                extra=facts(usable=len(found)),
            )
        self._is_failing = False


def _heard(call: asyncio.Future[bytes]) -> None:
    """However it ends: asyncio would complain of an error that nobody has waited for, and repeat the address."""
    if not call.cancelled():
        call.exception()


def _reason(error: Exception) -> str:
    """What went wrong. The address may hold a secret, and some errors repeat it."""
    reason = getattr(error, "reason", None)
    cause = reason if isinstance(reason, OSError) else error
    return (cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error)) or type(error).__name__
