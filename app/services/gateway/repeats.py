"""Makes a client's repeated request the same request: one key, one answer, bought once.

For calls that are not streamed, within one replica, for as long as an answer is kept. A call that failed is forgotten:
repeating it is what the key was for.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.domain.errors import ConflictError, RequestError
from app.domain.ports import Clock
from app.services.single_flight import SingleFlight

KEPT_MAX = 2_000
KEPT_S = 600.0
KEY_CHARS_MAX = 255
FLIGHTS_MAX = 10_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Kept(Generic[T]):
    fingerprint: bytes
    answer: T
    until_ns: int


class Repeats(Generic[T]):
    """Answers by (caller, idempotency key). Not thread-safe: one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: OrderedDict[bytes, _Kept[T]] = OrderedDict()
        self._flights: SingleFlight[T] = SingleFlight(FLIGHTS_MAX)
        self._fingerprints: dict[bytes, bytes] = {}

    async def run(self, caller: str, key: str, request: bytes, make: Callable[[], Awaitable[T]]) -> T:
        """Return the answer of the first request with this key, or make it.

        Args:
            caller: Whose key it is; callers do not see each other's.
            key: As the client sent it.
            request: What is asked, as bytes that are equal for equal requests.
            make: Makes the call.

        Raises:
            RequestError: the key is too long.
            ConflictError: the key was used with another request.
        """
        if len(key) > KEY_CHARS_MAX:
            raise RequestError(f"Idempotency-Key is longer than {KEY_CHARS_MAX} characters", param="idempotency-key")
        place = hashlib.sha256(f"{len(caller)}:{caller}{key}".encode()).digest()
        fingerprint = hashlib.sha256(request).digest()
        self._forget()
        kept = self._kept.get(place)
        known = kept.fingerprint if kept is not None else self._fingerprints.get(place)
        if known is not None and known != fingerprint:
            raise ConflictError(
                "this Idempotency-Key was used with another request", param="idempotency-key", remedy="use a new key"
            )
        if kept is not None:
            return kept.answer
        self._fingerprints[place] = fingerprint
        try:
            answer, _shared = await self._flights.run(place, make)
        finally:
            self._fingerprints.pop(place, None)
        until_ns = self._clock.monotonic_ns() + int(KEPT_S * 1e9)
        self._kept[place] = _Kept(fingerprint, answer, until_ns)
        return answer

    def _forget(self) -> None:
        now_ns = self._clock.monotonic_ns()
        while self._kept:
            place, oldest = next(iter(self._kept.items()))
            if oldest.until_ns > now_ns and len(self._kept) <= KEPT_MAX:
                return
            del self._kept[place]
