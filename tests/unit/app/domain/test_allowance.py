"""What answers tell of limits: exact numbers, those of the caller or the user, whichever are tighter."""

from __future__ import annotations

from app.domain.allowance import Allowance, InHand, allowances, tightest
from app.domain.limits import LimitSpec
from app.domain.load import BucketLevel, LoadRow


def a_row(*buckets: BucketLevel) -> LoadRow:
    return LoadRow(
        account="caller:team", model="*", scope="account:caller:team", state="healthy", in_flight=0, concurrency=None,
        buckets=buckets, cooldown_s=0.0, call_s=1.0, call_output_tokens=1.0, error_rate=0.0, context_tokens=1,
        observed_at_s=10.0,
    )  # fmt: skip


REQUESTS = BucketLevel(kind="requests", level=4.0, capacity=10.0, rate_per_s=1.0, full_s=50.0)
TOKENS = BucketLevel(kind="tokens", level=100.0, capacity=1_000.0, rate_per_s=10.0)


def test_allowance_names_the_configured_limit_what_is_left_and_when_all_of_it_is() -> None:
    """A window by its last call, grown older; a bucket by its rate. Limits that are not configured are not told."""
    requests, tokens = allowances(LimitSpec(rpm=10, tpm=1_000), a_row(REQUESTS, TOKENS), 15.0)

    assert requests == Allowance(kind="requests", limit=10, remaining=4.0, reset_s=45.0)
    assert tokens == Allowance(kind="tokens", limit=1_000, remaining=100.0, reset_s=90.0)
    assert [each.kind for each in allowances(LimitSpec(rpm=10), a_row(REQUESTS, TOKENS), 15.0)] == ["requests"]


def test_permits_in_the_hand_are_left_to_the_caller() -> None:
    """They are taken from the limit, and not used; never more than the whole."""
    hand = InHand(count=3, input_tokens=30, output_tokens=60)
    requests, tokens = allowances(LimitSpec(rpm=10, tpm=1_000), a_row(REQUESTS, TOKENS), 10.0, hand)

    assert (requests.remaining, tokens.remaining) == (7.0, 190.0)
    (full,) = allowances(LimitSpec(rpm=10), a_row(REQUESTS), 10.0, InHand(count=60))
    assert (full.remaining, full.reset_s) == (10.0, 0.0)


def test_tighter_of_two_is_told_kind_by_kind() -> None:
    """The key has few tokens left, the user few requests."""

    def left(kind: str, remaining: float, reset_s: float = 1.0) -> Allowance:
        return Allowance(kind=kind, limit=100, remaining=remaining, reset_s=reset_s)  # type: ignore[arg-type]

    key, user = [left("requests", 50), left("tokens", 3, 5.0)], [left("requests", 2), left("tokens", 3, 9.0)]

    assert set(tightest([key, user])) == {left("requests", 2), left("tokens", 3, 9.0)}
    assert tightest([]) == ()
