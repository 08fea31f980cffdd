"""What an account host measures of one (account, model): health, how long calls take, what was used.

Kept by ``account_state``, which tells it of every call. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from app.domain.accounts import AccountSpec, ModelInfo
from app.domain.chat import Usage
from app.domain.health import Health
from app.domain.speed import EWMA_WEIGHT, Speed

CALL_S_PRIOR = 1.0
STALE_NS = 600_000_000_000
"""What was not asked for so long is tried again as if it were new: it may have been slow but once."""


@dataclass(slots=True)
class Meter:
    """What is measured of one (account, model)."""

    account: AccountSpec
    model: ModelInfo
    health: Health
    call_s: float = CALL_S_PRIOR
    call_output_tokens: float = 500.0
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    last_error: str | None = None
    speed: Speed = field(default_factory=Speed)
    answered_ns: int | None = None

    def note(
        self, output_tokens_max: int, usage: Usage, now_ns: int, *, duration_s: float, ttft_s: float | None
    ) -> None:
        """Take one answered call into the averages; the first replaces the prior, and so does the first for long."""
        afresh = not self.is_fresh(now_ns)
        weight = 1.0 if afresh else EWMA_WEIGHT
        self.call_s += weight * (duration_s - self.call_s)
        self.call_output_tokens += weight * (output_tokens_max - self.call_output_tokens)
        self.speed.note(usage, duration_s, ttft_s, afresh=afresh)
        self.answered_ns = now_ns
        self.calls += 1
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens

    def is_fresh(self, now_ns: int) -> bool:
        """Tell whether anything was measured lately."""
        return self.answered_ns is not None and now_ns - self.answered_ns < STALE_NS
