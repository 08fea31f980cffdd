"""The desk refuses what no run can be made of, whichever way it came in."""

from __future__ import annotations

import math

import pytest

from actors.coordinator import check_request
from app.domain.errors import RequestError
from app.domain.run import RunRequest


@pytest.mark.parametrize("timeout_s", [None, 0.1, 5, 7 * 86_400])
@pytest.mark.parametrize("tokens_max", [None, 1, 10**9])
def test_sensible_request_is_taken(timeout_s: float | None, tokens_max: int | None) -> None:
    """What docs/http.md promises is not refused further in."""
    check_request(RunRequest(text="a", timeout_s=timeout_s, tokens_max=tokens_max))


@pytest.mark.parametrize(
    ("field", "param", "wrong"),
    [
        *(("text", "request_text", value) for value in ("", " ", None, 5, "x" * 300_000)),
        *(("timeout_s", "timeout_s", value) for value in ("soon", "5", True, [1], 0, -1, math.nan, math.inf, 1e9)),
        *(
            ("budget_usd", "budget_usd", value)
            for value in ("0", "-1", "x", "", "NaN", "Infinity", "1e12", 5, 0.5, True)
        ),
        *(("tokens_max", "max_tokens_total", value) for value in ("9", True, 0.5, 9.0, 0, -1, [9])),
    ],
)
def test_wrong_field_is_refused_by_name_and_never_by_a_failure_of_ours(field: str, param: str, wrong: object) -> None:
    """A wrong type used to be a TypeError of the coordinator, which reads like a bug of ours and is worth a retry."""
    values: dict[str, object] = {"text": "a", field: wrong}

    with pytest.raises(RequestError) as refused:
        check_request(RunRequest(**values))  # type: ignore[arg-type]

    assert refused.value.param == param
