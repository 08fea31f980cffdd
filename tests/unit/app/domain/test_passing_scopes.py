"""Those who come and go are kept while anything of them counts, within a bound."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.passing_scopes import REST_NS, PassingScopes


class Guest:
    """Counts until a time."""

    def __init__(self) -> None:
        self.counts_until_ns = 0


def a_house(kept_max: int = 100) -> PassingScopes[Guest]:
    return PassingScopes(lambda guest, now_ns: guest.counts_until_ns <= now_ns, kept_max)


def test_guest_is_the_same_while_it_counts_and_new_after() -> None:
    """Forgetting must give nobody anything."""
    house = a_house(3)
    busy = house.open("busy", Guest, 0)
    idle = house.open("idle", Guest, 0)
    assert busy is not None
    busy.counts_until_ns = 10 * REST_NS
    house.open("newcomer", Guest, 2 * REST_NS)

    assert house.open("busy", Guest, 2 * REST_NS) is busy
    assert house.open("idle", Guest, 2 * REST_NS) is not idle


def test_newcomer_is_refused_while_everybody_counts() -> None:
    """Bounded, and never at the cost of those who are there."""
    house = a_house(2)
    for name in ("a", "b"):
        guest = house.open(name, Guest, 0)
        assert guest is not None
        guest.counts_until_ns = 10 * REST_NS

    assert house.open("c", Guest, 2 * REST_NS) is None
    assert house.open("a", Guest, 2 * REST_NS) is not None
    assert house.open("c", Guest, 20 * REST_NS) is not None


def test_one_who_counts_for_long_does_not_hide_the_others() -> None:
    """A stream of an hour at the front, idle ones behind it."""
    house = a_house(10)
    long = house.open("long", Guest, 0)
    assert long is not None
    long.counts_until_ns = 10**6 * REST_NS
    for number in range(1_000):
        assert house.open(f"user {number}", Guest, number * REST_NS) is not None

    assert len(house) <= 10
    assert house.find("long") is long


@settings(deadline=None)
@given(visits=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2 * REST_NS), st.integers(0, 3 * REST_NS))))
def test_nobody_who_counts_is_ever_forgotten(visits: list[tuple[int, int, int]]) -> None:
    """Whoever comes, in whatever order."""
    house, now, until = a_house(8), 0, dict[str, tuple[Guest, int]]()
    for number, pause, lasting in visits:
        now += pause
        guest = house.open(str(number), Guest, now)
        if guest is not None:
            guest.counts_until_ns = max(guest.counts_until_ns, now + lasting)
            until[str(number)] = guest, guest.counts_until_ns

        assert len(house) <= 8
        assert all(house.find(name) is known for name, (known, end) in until.items() if end > now)
