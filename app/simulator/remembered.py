"""What a provider keeps of answers: by the client's idempotency key, and stored completions by their metadata."""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass

from app.simulator.exchange import Plan, Refusal
from app.simulator.json_reading import JsonObject

KEPT_MAX = 10_000
"""Of each kind; the oldest go first."""


@dataclass(frozen=True, slots=True)
class _Kept:
    body_sha: bytes
    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    key: str
    metadata: Mapping[str, str]
    completion: JsonObject
    listed_ns: int


class Remembered:
    """Not thread-safe: the server's event loop is the lock."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._stored: deque[_Stored] = deque(maxlen=KEPT_MAX)

    def find(self, key: str, name: str | None, body: bytes) -> Plan | None:
        """Return the answer that the API key ``key`` got under the idempotency key ``name``, if it has one.

        Raises:
            Refusal: it was another request.
        """
        found = self._kept.get((key, name)) if name is not None else None
        if found is None:
            return None
        if found.body_sha != _sha(body):
            raise Refusal("invalid", "This idempotency key was used with another request.", status=422)
        return found.plan

    def keep(self, key: str, name: str | None, body: bytes, plan: Plan) -> None:
        """Keep an answer from the moment that it is decided: who asks again meanwhile gets the same."""
        if name is None:
            return
        self._kept[key, name] = _Kept(_sha(body), plan)
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)

    def forget(self, key: str, name: str | None) -> None:
        """Forget an answer that was never made."""
        if name is not None:
            self._kept.pop((key, name), None)

    def store(self, key: str, metadata: Mapping[str, str], completion: JsonObject, listed_ns: int) -> None:
        """Store a completion, to be listed from ``listed_ns`` on."""
        self._stored.append(_Stored(key=key, metadata=metadata, completion=completion, listed_ns=listed_ns))

    def listed(self, key: str, metadata: Mapping[str, str], now_ns: int, limit: int) -> list[JsonObject]:
        """Return stored completions of ``key`` with this metadata, the oldest first."""
        found = [
            stored.completion
            for stored in self._stored
            if stored.key == key and stored.listed_ns <= now_ns and metadata.items() <= stored.metadata.items()
        ]
        return found[:limit]


def _sha(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()
