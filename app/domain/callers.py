"""Who a presented API key belongs to, and which models its owner may use.

Keys are known by their SHA-256 only: an index of hashes is built once for a configuration, a request costs one hash and
one look-up. Limits and shares of callers are kept elsewhere (``fair_queue``, the callers' limiters).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeAlias

from app.domain.gateway import Caller

KEY_CHARS_MAX = 1_024
"""Longer ones are nobody's; not worth hashing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerSpec:
    """One configured key: whose it is, and its hash."""

    caller: Caller
    key_sha256: str
    """Lower-case hex; the key itself is nowhere."""


CallerIndex: TypeAlias = Mapping[str, CallerSpec]
"""Callers by the hash of their key."""


def hash_key(key: str) -> str:
    """Return the SHA-256 of ``key`` as lower-case hex."""
    return sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def index_callers(callers: Iterable[CallerSpec]) -> CallerIndex:
    """Return the index that ``find_caller`` takes; build it once for a configuration."""
    return {spec.key_sha256: spec for spec in callers}


def find_caller(callers: CallerIndex, presented_key: str) -> Caller | None:
    """Return whose key it is; None for nobody's. O(1) in the number of keys.

    The look-up is by hash, so that its timing tells nothing about a key; what is found is compared in constant time.
    """
    if len(presented_key) > KEY_CHARS_MAX:
        return None
    digest = hash_key(presented_key)
    spec = callers.get(digest)
    if spec is None or not hmac.compare_digest(spec.key_sha256, digest):
        return None
    return spec.caller


def may_use(caller: Caller, model: str) -> bool:
    """Return whether ``caller`` may use ``model``, a public name; configuration resolved the aliases it allows."""
    return not caller.allowed_models or model in caller.allowed_models
