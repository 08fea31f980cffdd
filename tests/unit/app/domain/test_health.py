"""Account health: cooldowns that only lengthen, a breaker with exactly one probe, death until a person acts."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.health import BACKOFF_MAX_NS, BACKOFF_NS, LIMITED_MAX_NS, PROBE_LOOK_NS, PROBE_TIMEOUT_NS, Health

S = 1_000_000_000


def _broken(now_ns: int = 0) -> tuple[Health, int]:
    """Return a health whose breaker has just come half open, and the time."""
    health = Health()
    while True:
        health.on_trouble(now_ns)
        ready_ns = health.ready_at_ns(now_ns)
        assert ready_ns is not None
        now_ns = ready_ns
        if health.state(now_ns) == "half_open":
            return health, now_ns


@given(st.lists(st.tuples(st.sampled_from(["minute", "day", "trouble", "ok"]), st.integers(0, 90 * S)), max_size=30))
def test_health_cooldown_is_never_shortened_by_any_later_outcome(events: list[tuple[str, int]]) -> None:
    """Whatever comes at the same moment, the account is not ready earlier than it was."""
    health, now_ns = Health(), 0
    for kind, span_ns in events:
        before_ns = health.ready_at_ns(now_ns)
        if kind == "minute":
            health.on_minute_limit(now_ns, now_ns + span_ns)
        elif kind == "day":
            health.on_day_limit(now_ns, now_ns + span_ns)
        elif kind == "trouble":
            health.on_trouble(now_ns, span_ns)
        else:
            health.on_success(now_ns)
        after_ns = health.ready_at_ns(now_ns)
        assert before_ns is not None
        assert after_ns is not None
        assert after_ns >= before_ns
        if kind in ("minute", "day", "trouble"):
            assert after_ns >= now_ns + span_ns
        now_ns += span_ns // 3


@pytest.mark.parametrize(
    ("limit", "state"), [(Health.on_minute_limit, "cooling_minute"), (Health.on_day_limit, "cooling_day")]
)
def test_health_cools_until_the_limit_ends_and_needs_no_probe(
    limit: Callable[[Health, int, int], None], state: str
) -> None:
    """A limit says nothing against the key."""
    health = Health()
    limit(health, 0, 10 * S)
    assert (health.state(10 * S - 1), health.ready_at_ns(0)) == (state, 10 * S)
    assert (health.state(10 * S), health.ready_at_ns(10 * S)) == ("healthy", 10 * S)
    assert health.error_rate == 0.0


def test_health_limit_met_again_after_its_own_time_is_probed() -> None:
    """The provider's word was not true: one call at a time from here on, until one succeeds."""
    health = Health()
    health.on_minute_limit(0, 2 * S)
    health.on_minute_limit(1, 2 * S)
    assert health.state(2 * S) == "healthy", "calls that were under way together are refused together"
    health.on_minute_limit(2 * S, 4 * S)
    assert health.state(4 * S) == "half_open"
    health.on_start(4 * S)
    health.on_minute_limit(4 * S, 6 * S)
    assert health.state(6 * S) == "half_open"
    health.on_start(6 * S)
    health.on_minute_limit(6 * S, 7 * S)
    assert health.ready_at_ns(6 * S) == 10 * S, "each time it was not true doubles the pause"
    health.on_start(10 * S)
    health.on_success(11 * S)
    assert health.state(11 * S) == "healthy"
    health.on_minute_limit(12 * S, 13 * S)
    assert health.state(13 * S) == "healthy"


def test_health_limit_that_goes_on_is_tried_every_few_seconds() -> None:
    """A limit of a minute is over within one: tries become rarer, but not as rare as after an outage."""
    health, now_ns, tries = Health(), 0, 0
    while now_ns < 600 * S:
        health.on_start(now_ns)
        health.on_minute_limit(now_ns, now_ns + S)
        ready_ns = health.ready_at_ns(now_ns)
        assert ready_ns is not None
        assert ready_ns - now_ns <= LIMITED_MAX_NS
        now_ns, tries = ready_ns, tries + 1
    assert tries <= 600 // 15 + 5


def test_health_dead_key_stays_dead_whatever_happens() -> None:
    """Neither time nor a late success of a call under way revives it."""
    health = Health()
    health.on_dead_key(0)
    health.on_success(1)
    health.on_minute_limit(2, 3)
    assert health.state(10**18) == "dead"
    assert health.ready_at_ns(10**18) is None


def test_health_pause_doubles_with_each_failure_to_a_minute_and_success_resets_it() -> None:
    """Overload: short back-off, growing while nothing succeeds."""
    health, now_ns, pauses = Health(), 0, []
    for _ in range(9):
        health.on_trouble(now_ns)
        ready_ns = health.ready_at_ns(now_ns)
        assert ready_ns is not None
        pauses.append(ready_ns - now_ns)
        now_ns = ready_ns
    assert pauses == [min(BACKOFF_NS * 2**n, BACKOFF_MAX_NS) for n in range(9)]
    health.on_start(now_ns)
    health.on_success(now_ns)
    health.on_trouble(now_ns)
    assert health.ready_at_ns(now_ns) == now_ns + BACKOFF_NS


def test_health_calls_that_fail_together_double_the_pause_once() -> None:
    """Twenty calls under way at an outage are one outage."""
    health = Health()
    for _ in range(20):
        health.on_trouble(0)
    assert health.ready_at_ns(0) == BACKOFF_NS


def test_health_single_failure_pauses_and_needs_no_probe() -> None:
    """One stray 503 must not reduce an account to one call."""
    health = Health()
    health.on_trouble(0)
    assert health.state(0) == "cooling_minute"
    assert health.state(BACKOFF_NS) == "healthy"


def test_health_half_open_lets_exactly_one_call_through() -> None:
    """The second call is refused while the probe is under way, and only its success closes the breaker."""
    health, now_ns = _broken()
    assert health.ready_at_ns(now_ns) == now_ns
    health.on_start(now_ns)
    assert health.ready_at_ns(now_ns + 1) == now_ns + 1 + PROBE_LOOK_NS
    assert health.cooling_until_ns(now_ns + 1) == now_ns + 1, "the probe itself may be sent"
    assert health.ready_at_ns(now_ns + PROBE_TIMEOUT_NS) == now_ns + PROBE_TIMEOUT_NS
    health.on_success(now_ns + S)
    assert health.state(now_ns + S) == "healthy"
    health.on_start(now_ns + S)
    assert health.ready_at_ns(now_ns + S) == now_ns + S


def test_health_failed_probe_pauses_longer_and_stays_half_open() -> None:
    """Open again, for twice as long, then one probe."""
    health, now_ns = _broken()
    health.on_start(now_ns)
    health.on_trouble(now_ns)
    ready_ns = health.ready_at_ns(now_ns)
    assert ready_ns is not None
    assert ready_ns - now_ns == 16 * BACKOFF_NS
    assert health.state(ready_ns) == "half_open"


def test_health_late_success_does_not_close_an_open_breaker() -> None:
    """A call sent before the outage says nothing of the provider after it."""
    health, now_ns = _broken()
    health.on_success(now_ns)
    assert health.state(now_ns) == "half_open"


@pytest.mark.parametrize("ending", [Health.on_withdrawn, Health.on_refused_request])
def test_health_probe_that_tells_nothing_bad_makes_room(ending: Callable[[Health, int], None]) -> None:
    """A withdrawn probe leaves the breaker as it was; a refused request proves that the provider answers."""
    health, now_ns = _broken()
    health.on_start(now_ns)
    ending(health, now_ns)
    assert health.ready_at_ns(now_ns) == now_ns
    assert health.state(now_ns) == ("half_open" if ending is Health.on_withdrawn else "healthy")


def test_health_lost_probe_is_given_up_in_the_end() -> None:
    """A caller that died must not park an account for ever."""
    health, now_ns = _broken()
    health.on_start(now_ns)
    assert health.ready_at_ns(now_ns + PROBE_TIMEOUT_NS) == now_ns + PROBE_TIMEOUT_NS


def test_health_pickles_and_compares_equal() -> None:
    """It may travel inside an actor's state."""
    health, _now_ns = _broken()
    assert pickle.loads(pickle.dumps(health)) == health
