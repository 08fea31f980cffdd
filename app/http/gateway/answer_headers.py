"""Response headers of the gateway: who served, what it cost, how long we took, what is left of the caller's limits."""

from __future__ import annotations

from typing import TypeAlias

from app.domain.gateway import Caller
from app.domain.load import LoadRow
from app.services.gateway.gateway import Facts

Headers: TypeAlias = "list[tuple[bytes, bytes]]"

_NAMES = {
    "requests": b"requests",
    "tokens": b"tokens",
    "input_tokens": b"input-tokens",
    "output_tokens": b"output-tokens",
}


def answer_headers(facts: Facts, ours_s: float) -> Headers:
    """Return the ``x-tutti-*`` headers of an answer."""
    served = facts.served
    headers = [
        (b"x-tutti-account", served.account.encode("latin-1", "replace")),
        (b"x-tutti-model", served.model.encode("latin-1", "replace")),
        (b"x-tutti-overhead-ms", b"%.2f" % (max(0.0, ours_s) * 1_000)),
    ]
    if facts.cost_usd is not None:
        headers.append((b"x-tutti-cost", facts.cost_usd.encode()))
    if facts.cached:
        headers.append((b"x-tutti-cache", b"hit"))
    return headers


def limit_headers(caller: Caller, row: LoadRow | None) -> Headers:
    """Return the caller's own limits in OpenAI's header names, as last known."""
    headers: Headers = []
    limits = caller.limits
    known = {"requests": limits.rpm, "tokens": limits.tpm, "input_tokens": limits.itpm, "output_tokens": limits.otpm}
    for bucket in row.buckets if row is not None else ():
        limit = known.get(bucket.kind)
        if limit is None:
            continue
        name = _NAMES[bucket.kind]
        missing = max(0.0, bucket.capacity - bucket.level)
        headers += [
            (b"x-ratelimit-limit-" + name, str(limit).encode()),
            (b"x-ratelimit-remaining-" + name, str(max(0, int(bucket.level))).encode()),
            (b"x-ratelimit-reset-" + name, b"%.3fs" % (missing / bucket.rate_per_s if bucket.rate_per_s else 0.0)),
        ]
    return headers
