"""How long one call would take at each account of a model: time to the first token, then its output at their speed.

The one source for who is quicker: ``placement`` and ``outlook`` ask it, and so does the desk that draws spare permits.
Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from app.domain.load import LoadRow

SHORTEST_S = 0.05
SCALE_MIN, SCALE_MAX = 0.5, 2.0
"""How far the allowed output may scale the expected one: answers seldom fill what they are allowed."""
UNTRIED_SHARE = 0.9
"""An untried account is hoped to be a little quicker than the quickest known one: else nobody would ever know."""


@dataclass(frozen=True, slots=True)
class Usual:
    """What a model's calls were of late, over all its accounts that were timed."""

    output_tokens: float
    """Generated."""
    allowed_tokens: float
    """Allowed to be."""

    @classmethod
    def of(cls, rows: Collection[LoadRow]) -> Usual | None:
        """Return it; None where no speed was measured."""
        timed = [row for row in rows if row.tokens_per_s is not None]
        if not timed:
            return None
        return cls(
            sum(row.output_tokens for row in timed) / len(timed),
            sum(row.call_output_tokens for row in timed) / len(timed),
        )

    def output_of(self, output_tokens_max: int | None) -> float:
        """Return what a call is expected to generate that may generate so much."""
        scaled = self.output_tokens * _scale(output_tokens_max, self.allowed_tokens)
        return scaled if output_tokens_max is None else min(scaled, output_tokens_max)


class Prospect:
    """How long one call would take at each account of a model, which it is compared by.

    What the call will generate is foreseen from the calls of all of them, so that an account is not taken for slow
    because it happened to get the long ones. Only its time to the first token and its speed are its own.

    Args:
        rows: The model's accounts.
        output_tokens_max: What the call may generate; None takes what the calls were allowed of late.
        usual: What is usual of these rows, where it is known already.
        quickest_s: How quick an untried account is hoped to be where none of the model was tried.
    """

    def __init__(
        self,
        rows: Collection[LoadRow],
        output_tokens_max: int | None,
        *,
        usual: Usual | None = None,
        quickest_s: float | None = None,
    ) -> None:
        self._rows = rows
        self._allowed = output_tokens_max
        usual = Usual.of(rows) if usual is None else usual
        self._output = None if usual is None else usual.output_of(output_tokens_max)
        self._hope_s = quickest_s

    @property
    def quickest_s(self) -> float | None:
        """Of those measured, the quickest; None where none is."""
        return min((self._known_s(row) for row in self._rows if row.measured), default=None)

    def answer_s(self, row: LoadRow) -> float:
        """Return how long the account would take from the start to the end of the call."""
        if row.measured:
            return self._known_s(row)
        quickest_s = self.quickest_s
        hope_s = self._hope_s if quickest_s is None else quickest_s
        if hope_s is None:
            return self._known_s(row)
        # One that tries is enough to know: the more are at it, the less is to be hoped for.
        return max(SHORTEST_S, UNTRIED_SHARE * hope_s * (1 + row.in_flight))

    def _known_s(self, row: LoadRow) -> float:
        if row.tokens_per_s is None or self._output is None:
            return max(SHORTEST_S, row.call_s) * _scale(self._allowed, row.call_output_tokens)
        return max(SHORTEST_S, (row.ttft_s or 0.0) + self._output / row.tokens_per_s)


def _scale(output_tokens_max: int | None, usual: float) -> float:
    """Return how much longer than usual an answer is expected to be, by what it may generate."""
    if output_tokens_max is None:
        return 1.0
    return min(max(output_tokens_max / max(1.0, usual), SCALE_MIN), SCALE_MAX)
