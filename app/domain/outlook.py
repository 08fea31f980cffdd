"""When one account could start a call and be done with it, as far as its last row says.

Without reserving anything: cheap enough to be asked for every candidate of a request. The start is that which
``placement`` foresees (a test holds them together), and so is the end: both ask ``prospect``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from app.domain.load import LoadRow
from app.domain.placement import ERROR_RATE_MAX, NEVER_S
from app.domain.prospect import SHORTEST_S, Prospect

__all__ = ["Prospect", "expected_finish_s", "expected_start_s", "prospects"]


def expected_start_s(
    row: LoadRow, input_tokens: int, output_tokens_max: int | None, now_s: float | None = None
) -> float:
    """Return in how many seconds the account could start the call; ``NEVER_S`` for never.

    Args:
        row: The account's last row.
        input_tokens: Of the call, estimated.
        output_tokens_max: What the call may generate; None takes what the account's calls were allowed of late.
        now_s: Monotonic seconds on the clock of the row; None takes the row as if just observed.
    """
    if row.state == "dead" or input_tokens > row.context_tokens:
        return NEVER_S
    age_s = 0.0 if now_s is None else max(0.0, now_s - row.observed_at_s)
    output = row.call_output_tokens if output_tokens_max is None else output_tokens_max
    start_s = max(0.0, row.cooldown_s - age_s, row.closed_s - age_s)
    for bucket in row.buckets:
        if bucket.kind == "requests":
            charge = 1.0
        elif bucket.kind == "input_tokens":
            charge = input_tokens
        elif bucket.kind == "output_tokens":
            charge = output
        else:
            charge = input_tokens + output
        missing = min(charge, bucket.capacity) - min(bucket.capacity, bucket.level + bucket.rate_per_s * age_s)
        if missing > 0:
            if bucket.rate_per_s <= 0:
                return NEVER_S
            start_s = max(start_s, missing / bucket.rate_per_s)
    if row.concurrency is not None and row.in_flight >= row.concurrency:
        # Nothing is known of how far each call is: assume them evenly spread over a typical duration.
        ends = row.in_flight - row.concurrency + 1
        start_s = max(start_s, max(SHORTEST_S, row.call_s) * ends / (row.in_flight + 1))
    return start_s


def expected_finish_s(
    row: LoadRow,
    input_tokens: int,
    output_tokens_max: int | None,
    now_s: float | None = None,
    *,
    prospect: Prospect | None = None,
) -> float:
    """Return in how many seconds the account would be done with the call, failures included; else as the start.

    ``prospect`` is that of the model for this call; without one the account stands for itself.
    """
    start_s = expected_start_s(row, input_tokens, output_tokens_max, now_s)
    if start_s >= NEVER_S:
        return NEVER_S
    answer_s = (prospect or Prospect((row,), output_tokens_max)).answer_s(row)
    return start_s + answer_s / (1.0 - min(row.error_rate, ERROR_RATE_MAX))


def prospects(rows_by_model: Mapping[str, Collection[LoadRow]], output_tokens_max: int | None) -> dict[str, Prospect]:
    """Return the prospect of every model; one that nobody has tried is hoped to be as quick as the quickest other."""
    found = {model: Prospect(rows, output_tokens_max) for model, rows in rows_by_model.items()}
    known = [each.quickest_s for each in found.values() if each.quickest_s is not None]
    quickest_s = min(known, default=None)
    for model, each in found.items():
        if each.quickest_s is None:
            found[model] = Prospect(rows_by_model[model], output_tokens_max, quickest_s=quickest_s)
    return found
