"""The public keys that an issuer publishes at a URL (`jwt_jwks_url`).

Rule: a well-formed set is trusted until the next one is read, however long the issuer is down. A key that is in no set
is never accepted. Sets are read one at a time: at the start, every `refresh_s`, and when a token names an unknown key,
but not within `pause_s` of the last read, so that nobody can make us flood the issuer with invented names.

Theory: a token of a known key never waits for the issuer, so an issuer that hangs locks nobody out. Since sets are also
read when nobody asks, a withdrawn key is gone after `refresh_s`.
"""

from __future__ import annotations

import asyncio
import http
import http.client
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress

from cdc_bridge.access import keys
from cdc_bridge.access.keys import Key
from cdc_bridge.logs import facts

log = logging.getLogger(__name__)

SET_BYTES_MAX = 256 * 1024
READ_AT_ONCE = 64 * 1024

LATE_S = 1.0
"""How much longer than a read may take a token waits for it."""


class PublishedKeys:
    """See the module's docstring. `keep_fresh` must run beside the callers of `named`."""

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
        """Read the set again and again, until cancelled."""
        while True:
            await self._read_once()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._refresh_s):
                    await self._wanted.wait()

    async def named(self, algorithm: str, kid: str | None) -> Sequence[Key]:
        """Return the keys that may have signed a token which names `kid`."""
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
            self._log_failure(error)
        else:
            self._log_success(found)
            self._keys = found
        finally:
            self._is_reading = False
            self._read.set()
            self._read = asyncio.Event()

    async def _fetch(self) -> bytes:
        """Use one thread at a time: an abandoned read may still hang in one."""
        loop = asyncio.get_running_loop()
        if self._call is None or self._call.done():
            self._call = loop.run_in_executor(None, fetch, self._url, self._within_s, SET_BYTES_MAX)
            self._call.add_done_callback(_retrieve)
        done, _ = await asyncio.wait([self._call], timeout=self._within_s)
        if not done:
            raise TimeoutError(f"no answer within {self._within_s:g} s")
        call, self._call = self._call, None
        return call.result()

    def _log_failure(self, error: Exception) -> None:
        if not self._is_failing:
            log.warning(
                "cannot read the issuer's keys: known keys stay valid, others are refused",
                extra=facts(reason=_reason(error), known=len(self._keys)),
            )
        self._is_failing = True

    def _log_success(self, found: Sequence[Key]) -> None:
        if self._is_failing or {key.kid for key in found} != {key.kid for key in self._keys} or not found:
            log.log(
                logging.INFO if found else logging.WARNING,
                "the issuer's keys were read",
                extra=facts(usable=len(found)),
            )
        self._is_failing = False


def _retrieve(call: asyncio.Future[bytes]) -> None:
    """Retrieve the exception of an abandoned read: asyncio would otherwise log it, with the address."""
    if not call.cancelled():
        call.exception()


def _reason(error: Exception) -> str:
    """Describe an error without the address, which may hold a secret and which some errors repeat."""
    reason = getattr(error, "reason", None)
    cause = reason if isinstance(reason, OSError) else error
    return (cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error)) or type(error).__name__


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Trust the server at the address that the operator gave, and no other."""

    def redirect_request(self, *_: object) -> None:
        return None


_opener = urllib.request.OpenerDirector()
for _handler in (
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.UnknownHandler,
    _NoRedirects,
):
    _opener.add_handler(_handler())


def fetch(url: str, within_s: float, bytes_max: int) -> bytes:
    """Read a small document by HTTP; blocks. Raises `OSError` or `ValueError`, whose reason omits the address."""
    deadline_s = time.monotonic() + within_s
    request = urllib.request.Request(url, headers={"Accept": "application/json", "User-Agent": "cdc_bridge"})  # noqa: S310 - the opener knows http and https only
    try:
        with _opener.open(request, timeout=within_s) as response:
            if response.status != http.HTTPStatus.OK:
                raise ValueError(f"HTTP {response.status}")
            found = bytearray()
            while chunk := response.read1(READ_AT_ONCE):
                found += chunk
                if len(found) > bytes_max:
                    raise ValueError(f"more than {bytes_max} bytes")
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f"not complete after {within_s:g} s")
            return bytes(found)
    except urllib.error.HTTPError as error:
        error.close()
        raise ValueError(f"HTTP {error.code}") from None
    except http.client.HTTPException as error:
        raise ValueError(f"not HTTP ({type(error).__name__})") from None
