"""An account's state follows what its calls meet, and never forgets a longer pause for a shorter one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.domain.health import BACKOFF_NS, BACKOFF_NS_MAX, BREAKER_FAILURES, SECOND_NS, Health

NOW = 1_000 * SECOND_NS


def broken(now_ns: int = NOW) -> Health:
    health = Health()
    for _ in range(BREAKER_FAILURES):
        health.on_trouble(now_ns, None)
    return health


@given(st.lists(st.tuples(st.sampled_from(["minute", "day"]), st.integers(0, 10**12)), min_size=1, max_size=20))
def test_a_later_limit_never_shortens_a_cooldown(limits: list[tuple[str, int]]) -> None:
    """A provider that says "25 s" after "until tomorrow" must not be believed."""
    health = Health()
    for kind, until_ns in limits:
        (health.on_minute_limit if kind == "minute" else health.on_day_limit)(NOW, NOW + until_ns)

    assert health.ready_at_ns(NOW) == NOW + max(until_ns for _kind, until_ns in limits)


def test_a_dead_key_is_never_ready_again() -> None:
    """Only a person can bring it back: successes of calls under way do not."""
    health = Health()
    health.on_dead_key(NOW)
    health.on_success(NOW)

    assert health.state(NOW) == "dead"
    assert health.ready_at_ns(NOW + 10**15) is None


def test_single_failures_are_the_weather_and_several_open_the_breaker() -> None:
    """One 500 must not take an account out."""
    health = Health()
    health.on_trouble(NOW, None)
    assert health.state(NOW) == "healthy"

    health = broken()
    assert health.state(NOW) == "cooling_minute"
    assert health.ready_at_ns(NOW) == NOW + BACKOFF_NS


def test_after_the_pause_exactly_one_probe_is_admitted() -> None:
    """Half-open means one call, not a herd."""
    health = broken()
    later = NOW + BACKOFF_NS
    assert health.state(later) == "half_open"
    health.on_start(later)

    ready_ns = health.ready_at_ns(later)
    assert ready_ns is not None
    assert ready_ns > later
    health.on_success(later)
    assert (health.state(later), health.ready_at_ns(later)) == ("healthy", later)


def test_a_failed_probe_doubles_the_pause_up_to_a_bound() -> None:
    """The pause grows while the provider stays down, and stays below a minute."""
    health, now_ns, pauses = broken(), NOW, []
    for _ in range(10):
        ready_ns = health.ready_at_ns(now_ns)
        assert ready_ns is not None
        pauses.append(ready_ns - now_ns)
        now_ns = ready_ns
        health.on_start(now_ns)
        health.on_trouble(now_ns, None)

    assert pauses[:4] == [BACKOFF_NS * factor for factor in (1, 2, 4, 8)]
    assert max(pauses) == BACKOFF_NS_MAX


def test_a_provider_that_names_a_pause_is_given_it_at_once() -> None:
    """Retry-After on a 503 counts even for the first failure."""
    health = Health()
    health.on_trouble(NOW, 7 * SECOND_NS)

    assert health.ready_at_ns(NOW) == NOW + 7 * SECOND_NS


def test_a_withdrawn_probe_leaves_room_for_another() -> None:
    """A cancelled probe told nothing: without this the account would stay shut for ever."""
    health = broken()
    later = NOW + BACKOFF_NS
    health.on_start(later)
    health.on_withdrawn(later)

    assert health.ready_at_ns(later) == later
