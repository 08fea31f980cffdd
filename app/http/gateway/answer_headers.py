"""Response headers of the gateway: who served, what it cost, how long we took, what is left of the caller's limits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from app.domain.allowance import Allowance
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


def limit_headers(allowances: Iterable[Allowance]) -> Headers:
    """Return the caller's own limits in OpenAI's header names."""
    headers: Headers = []
    for each in allowances:
        name = _NAMES[each.kind]
        headers += [
            (b"x-ratelimit-limit-" + name, str(each.limit).encode()),
            (b"x-ratelimit-remaining-" + name, str(int(each.remaining)).encode()),
            (b"x-ratelimit-reset-" + name, b"%.3fs" % each.reset_s),
        ]
    return headers
