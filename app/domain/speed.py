"""How quickly one (account, model) answers, measured call by call: time to the first token, then tokens a second.

Averages fade, so that one odd call is soon forgotten. The speed is that of generating: what came after the first token,
divided by the time after it. It is the ratio of two averages, tokens and seconds: so a short answer weighs little, and
neither a stream that came in one piece nor one that stood still spoils it for long. What is not known is not guessed:

- Only streams show when the first token came.
- Before any stream was seen, a whole answer gives a lower bound of the speed: its time is also that of the first token.
  After one it is taken without the time that streams need to their first token, so that both say the same.
- Reasoning may be hidden until it is over; it is left out of what came after the first token: again a lower bound.
- A count that is only estimated, or an answer without output, tells nothing of the speed.

Pure. Asked once for every answered call.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.chat import Usage

EWMA_WEIGHT = 0.2
SHORTEST_S = 0.001
"""What came at once was generated before it came: the speed has a bound."""


@dataclass(slots=True)
class Speed:
    """What is measured of one (account, model)."""

    ttft_s: float | None = None
    """Time to the first token; None until a stream was seen."""
    output_tokens: float = 0.0
    """What those calls generated after it."""
    _seconds: float = 0.0

    @property
    def tokens_per_s(self) -> float | None:
        """None until measured."""
        return self.output_tokens / self._seconds if self._seconds > 0.0 else None

    def note(self, usage: Usage, duration_s: float, ttft_s: float | None, *, afresh: bool = False) -> None:
        """Take one answered call in.

        Args:
            usage: What it used.
            duration_s: From sending it to the last byte.
            ttft_s: From sending it to the first token, where it was streamed.
            afresh: What was measured before is too old to be averaged with.
        """
        streams_known = self.ttft_s is not None
        if ttft_s is not None:
            old = self.ttft_s
            self.ttft_s = ttft_s if old is None or afresh else old + EWMA_WEIGHT * (ttft_s - old)
        tokens, seconds = usage.output_tokens, duration_s
        if tokens <= 0 or usage.source == "estimated":
            return
        first_s = ttft_s if ttft_s is not None else self.ttft_s
        if first_s is not None and (ttft_s is not None or first_s < duration_s):
            tokens, seconds = max(1, tokens - usage.reasoning_tokens), duration_s - first_s
        # The first stream replaces what whole answers said: that was but a bound.
        known = self._seconds > 0.0 and not afresh and (streams_known or ttft_s is None)
        weight = EWMA_WEIGHT if known else 1.0
        self.output_tokens += weight * (tokens - self.output_tokens)
        self._seconds += weight * (max(SHORTEST_S, seconds) - self._seconds)
