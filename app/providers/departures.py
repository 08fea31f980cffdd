"""Which providers go on working, and charging, when the connection of a call is closed before its answer is complete.

One row per provider, read by whoever holds the connection (``goes_on``). Where closing stops the bill it is closed;
where it does not, the call is read to its end: that costs nothing more, tells the usage exactly, and keeps the call's
permit for as long as the provider itself counts it. Where nobody says, it is closed: that is never dearer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.domain.accounts import AccountSpec, Provider


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """What a provider does with a call whose connection was closed."""

    stream_goes_on: bool
    whole_goes_on: bool
    """The same for a call that is not streamed."""
    source: str


_ROUTER = "openrouter.ai/docs/api-reference/streaming, read 2026-11-21"
_ENGINE = "an engine without a bill; llama.cpp and vLLM stop when the connection is closed"

DEPARTURES: Mapping[str, Departure] = {
    Provider.OPENAI: Departure(stream_goes_on=False, whole_goes_on=True, source=_ROUTER),
    Provider.ANTHROPIC: Departure(stream_goes_on=False, whole_goes_on=True, source=_ROUTER),
    Provider.DEEPSEEK: Departure(stream_goes_on=False, whole_goes_on=True, source=_ROUTER),
    Provider.QWEN: Departure(stream_goes_on=True, whole_goes_on=True, source=f"{_ROUTER} (Alibaba)"),
    Provider.GEMINI: Departure(
        stream_goes_on=True,
        whole_goes_on=True,
        source=f"googleapis.github.io/js-genai, AbortSignal: client-only, still charged; {_ROUTER}",
    ),
    Provider.CUSTOM: Departure(stream_goes_on=False, whole_goes_on=False, source=_ENGINE),
    Provider.LOCAL: Departure(stream_goes_on=False, whole_goes_on=False, source=_ENGINE),
}


def goes_on(account: AccountSpec, *, stream: bool) -> bool:
    """Tell whether the account's provider finishes, and bills, a call that is left; False for a plugin's adapter."""
    departure = DEPARTURES.get(dict(account.options).get("adapter") or str(account.provider))
    if departure is None:
        return False
    return departure.stream_goes_on if stream else departure.whole_goes_on
