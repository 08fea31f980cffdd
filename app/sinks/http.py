"""Requests to a receiver of events: one session, its key, its certificates; every failure of the network as one error.

Directly on aiohttp, as the providers are (docs/adr/0008): what the official client adds (retries, sniffing, JSON) is
what shipping must not have: whether a request is repeated is the shipper's decision. No redirects, no environment.
"""

from __future__ import annotations

import io
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import aiohttp
import certifi
import orjson

TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5.0


class UnreachableError(Exception):
    """No complete answer came; ``slow`` where that was for want of time. What was asked may have been done."""

    def __init__(self, reason: str, *, slow: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.slow = slow


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A complete answer, whatever its status."""

    status: int
    body: bytes
    retry_after_s: float = 0.0

    def document(self) -> dict[str, Any]:
        """Return the body as JSON; empty where it is none."""
        try:
            found = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return {}
        return found if isinstance(found, dict) else {}

    def words(self) -> str:
        """Return what it says about itself, shortened."""
        error = self.document().get("error")
        if isinstance(error, dict):
            return f"{error.get('type')}: {error.get('reason')}"[:300]
        return f"status {self.status}"


class ReceiverHttp:
    """Makes requests.

    Args:
        url: What paths are below of.
        headers: Of every request, beside our own; may hold a key, so they are never shown.
        ca_cert: A file of certificates to trust beside the usual ones.
        timeout_s: Of one request, connecting included.

    Belongs to the event loop of its first request. Not thread-safe.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], *, ca_cert: str | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._url = url.rstrip("/")
        self._headers = {"accept-encoding": "identity", "user-agent": "tutti", **headers}
        self._ca_cert = ca_cert
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        kind: str = "application/json",
        params: Mapping[str, str] = MappingProxyType({}),
    ) -> Answer:
        """Make one request.

        Raises:
            UnreachableError: no complete answer.
        """
        failure: UnreachableError
        try:
            session = self._session or self._open()
            async with session.request(
                method,
                self._url + path,
                # In pieces: a large body at once would hold the event loop.
                data=io.BytesIO(body) if body else None,
                params=params,
                headers={"content-type": kind} if body else None,
                allow_redirects=False,
            ) as response:
                body = await response.read()
                return Answer(status=response.status, body=body, retry_after_s=_seconds(response.headers))
        except TimeoutError:
            failure = UnreachableError(f"no answer within {self._timeout_s:g} s", slow=True)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure = UnreachableError(f"no answer ({type(error).__name__})")
        # Raised out here: aiohttp's errors hold the request's headers, hence the key.
        raise failure

    async def aclose(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        context = ssl.create_default_context(cafile=certifi.where())
        if self._ca_cert is not None:
            context.load_verify_locations(self._ca_cert)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=8, ssl=context),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=CONNECT_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            headers=self._headers,
        )
        return self._session


def _seconds(headers: Mapping[str, str]) -> float:
    try:
        return max(0.0, float(headers.get("retry-after", "0")))
    except ValueError:
        return 0.0
