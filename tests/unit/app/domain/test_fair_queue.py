"""Waiting calls are served by class and by caller in their shares, whatever comes, goes or is passed over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.fair_queue import SHARES, STALE_MIN, FairQueue
from app.domain.gateway import ServiceClass
from tests.effort import examples

INTERACTIVE, STANDARD, BATCH = ServiceClass.INTERACTIVE, ServiceClass.STANDARD, ServiceClass.BATCH
WEIGHTS = {"a": 1.0, "b": 2.0, "c": 5.0}
COST_MAX = 1_000


class Waiting:
    """A call as the plain model below knows it."""

    def __init__(self, item: int, caller: str, service_class: ServiceClass, cost: int) -> None:
        self.item, self.caller, self.service_class, self.cost = item, caller, service_class, cost


class PlainQueue:
    """The rule of ``FairQueue`` said without heaps: looks at every caller every time, and keeps every record."""

    def __init__(self) -> None:
        self.waiting: list[Waiting] = []
        self.clocks: dict[ServiceClass | None, float] = {}
        self.starts: dict[tuple[ServiceClass, str | None], float] = {}
        self.arrivals: dict[tuple[ServiceClass, str], int] = {}

    def push(self, call: Waiting) -> None:
        lane, line = (call.service_class, None), (call.service_class, call.caller)
        if not any(other.service_class is call.service_class for other in self.waiting):
            self.starts[lane] = max(self.starts.get(lane, 0.0), self.clocks.get(None, 0.0))
        if not any((other.service_class, other.caller) == line for other in self.waiting):
            self.starts[line] = max(self.starts.get(line, 0.0), self.clocks.get(call.service_class, 0.0))
            self.arrivals[line] = call.item
        self.waiting.append(call)

    def first(self) -> Waiting:
        classes = [each for each in SHARES if any(call.service_class is each for call in self.waiting)]
        chosen = min(classes, key=lambda each: self.starts[each, None])
        calls = [call for call in self.waiting if call.service_class is chosen]
        return min(
            calls, key=lambda call: (self.starts[chosen, call.caller], self.arrivals[chosen, call.caller], call.item)
        )

    def take(self, call: Waiting) -> None:
        each, line = call.service_class, (call.service_class, call.caller)
        self.waiting.remove(call)
        for clock, key, share in ((None, (each, None), float(SHARES[each])), (each, line, WEIGHTS[call.caller])):
            start = max(self.clocks.get(clock, 0.0), self.starts[key])
            self.clocks[clock], self.starts[key] = start, start + call.cost / share
        own = [other.item for other in self.waiting if (other.service_class, other.caller) == line]
        self.arrivals[line] = min(own, default=0)
        self._forget(each)

    def withdraw(self, call: Waiting) -> None:
        self.waiting.remove(call)
        self._forget(call.service_class)

    def _forget(self, each: ServiceClass) -> None:
        if not any(call.service_class is each for call in self.waiting):
            self.clocks.pop(each, None)
            for caller in WEIGHTS:
                self.starts.pop((each, caller), None)
        if not self.waiting:
            self.clocks.clear()
            self.starts.clear()


pushes = st.tuples(st.sampled_from(sorted(WEIGHTS)), st.sampled_from(list(SHARES)), st.integers(1, COST_MAX))
steps = st.lists(
    st.tuples(st.just("push"), pushes)
    | st.tuples(st.sampled_from(["take first", "take any", "withdraw"]), st.integers(0, 1_000)),
    max_size=80,
)


def a_backlog(*calls: tuple[str, ServiceClass, int]) -> FairQueue[int]:
    queue: FairQueue[int] = FairQueue(100_000)
    for item, (caller, service_class, cost) in enumerate(calls):
        queue.push(item, caller, weight=WEIGHTS[caller], service_class=service_class, cost_tokens=cost)
    return queue


@settings(deadline=None)
@given(steps)
def test_queue_serves_as_the_plain_rule_does(plan: list[tuple[str, object]]) -> None:
    """The heaps, left-over entries and lazy walk change nothing: after every step the first is the plain rule's."""
    queue: FairQueue[int] = FairQueue(1_000)
    plain = PlainQueue()
    for number, (what, detail) in enumerate(plan, 1):
        if isinstance(detail, tuple):
            caller, service_class, cost = detail
            queue.push(number, caller, weight=WEIGHTS[caller], service_class=service_class, cost_tokens=cost)
            plain.push(Waiting(number, caller, service_class, cost))
        elif plain.waiting and isinstance(detail, int):
            call = plain.first() if what == "take first" else plain.waiting[detail % len(plain.waiting)]
            if what == "withdraw":
                assert queue.withdraw(call.item)
                plain.withdraw(call)
            else:
                queue.take(call.item)
                plain.take(call)

        assert len(queue) == len(plain.waiting)
        assert queue.peek(1) == ([plain.first().item] if plain.waiting else [])
    foreseen = list(queue)
    for item in foreseen:
        assert plain.first().item == item
        plain.take(plain.first())
    assert plain.waiting == []


@settings(deadline=None)
@given(st.lists(pushes, max_size=60), st.integers(0, 60))
def test_peek_foresees_the_order_of_taking_the_first(calls: list[tuple[str, ServiceClass, int]], limit: int) -> None:
    """Placement looks at several calls at once: they must be those that would be served next, and looking is free."""
    queue = a_backlog(*calls)
    foreseen = queue.peek(limit)

    assert foreseen == queue.peek(limit)
    assert len(foreseen) == min(limit, len(calls))
    for item in foreseen:
        assert queue.peek(1) == [item]
        queue.take(item)


@settings(deadline=None)
@given(st.lists(pushes, min_size=1, max_size=60), st.data())
def test_withdrawal_keeps_the_order_of_the_others(
    calls: list[tuple[str, ServiceClass, int]], data: st.DataObject
) -> None:
    """Nobody falls behind because someone else, or an own earlier call, gave up."""
    queue = a_backlog(*calls)
    before = list(queue)
    gone = data.draw(st.sampled_from(before))
    assert queue.withdraw(gone)
    after = list(queue)
    mine = [item for item in before if calls[item][:2] == calls[gone][:2]]

    assert sorted(after) == sorted(set(before) - {gone})
    for service_class in SHARES:
        others = [item for item in before if calls[item][1] is service_class and item not in mine]
        assert [item for item in after if item in others] == others
    assert [item for item in after if item in mine] == [item for item in mine if item != gone]
    same_class = [item for item in before if calls[item][1] is calls[gone][1] and item != gone]
    now = [item for item in after if calls[item][1] is calls[gone][1]]
    assert all(now.index(item) <= same_class.index(item) for item in mine if item != gone)


@settings(deadline=None)
@given(st.lists(pushes, max_size=60), st.lists(st.booleans(), max_size=40))
def test_calls_of_one_caller_stay_in_their_order(
    calls: list[tuple[str, ServiceClass, int]], taken_first: list[bool]
) -> None:
    """A client that sends A before B expects A before B, whatever was taken or withdrawn meanwhile."""
    queue = a_backlog(*calls)
    for first in taken_first[: len(calls)]:
        item = next(islice(queue, 0 if first else len(queue) // 2, None))
        if first:
            queue.take(item)
        else:
            queue.withdraw(item)
    lines: dict[tuple[str, ServiceClass], list[int]] = {}
    for item in queue:
        lines.setdefault(calls[item][:2], []).append(item)

    assert all(items == sorted(items) for items in lines.values())


@settings(deadline=None, max_examples=examples(50))
@given(st.lists(st.integers(1, COST_MAX), min_size=120, max_size=120), st.data())
def test_backlogged_callers_are_served_by_weight(costs: list[int], data: st.DataObject) -> None:
    """At every moment two callers that both wait differ by at most one largest call each, in weighted tokens."""
    callers = data.draw(st.permutations(sorted(WEIGHTS) * 40))
    queue = a_backlog(*((caller, STANDARD, cost) for caller, cost in zip(callers, costs, strict=True)))
    served = dict.fromkeys(WEIGHTS, 0.0)
    while all(queue.count(caller) for caller in WEIGHTS):
        (item,) = queue.peek(1)
        queue.take(item)
        served[callers[item]] += costs[item] / WEIGHTS[callers[item]]

        for one in WEIGHTS:
            for other in WEIGHTS:
                bound = COST_MAX / WEIGHTS[one] + COST_MAX / WEIGHTS[other]
                assert served[one] - served[other] <= bound + 1e-6


@settings(deadline=None, max_examples=examples(50))
@given(st.lists(st.integers(1, COST_MAX), min_size=150, max_size=150), st.data())
def test_backlogged_classes_are_served_by_share(costs: list[int], data: st.DataObject) -> None:
    """Higher classes take at most their share while a lower one waits: batch is slow, never starved."""
    classes = data.draw(st.permutations([*[INTERACTIVE] * 90, *[STANDARD] * 40, *[BATCH] * 20]))
    queue = a_backlog(*(("a", each, cost) for each, cost in zip(classes, costs, strict=True)))
    served = dict.fromkeys(SHARES, 0.0)
    while all(queue.counts().values()):
        (item,) = queue.peek(1)
        queue.take(item)
        served[classes[item]] += costs[item] / SHARES[classes[item]]

        for one in SHARES:
            for other in SHARES:
                assert served[one] - served[other] <= COST_MAX / SHARES[one] + COST_MAX / SHARES[other] + 1e-6


@settings(deadline=None, max_examples=examples(50))
@given(st.lists(pushes, max_size=40), pushes, st.lists(pushes, min_size=60, max_size=60))
def test_nobody_starves_while_others_keep_coming(
    waiting: list[tuple[str, ServiceClass, int]],
    mine: tuple[str, ServiceClass, int],
    coming: list[tuple[str, ServiceClass, int]],
) -> None:
    """Work that comes later, twice as much as can be served and of any class, delays a call within the shares only."""
    calls = [*waiting, ("b", *mine[1:])]
    queue = a_backlog(*calls)
    number, served, rest = len(waiting), 0, sum(cost for _caller, _class, cost in waiting)
    while number in queue:
        for _ in range(2):  # twice as much comes as is served
            caller, service_class, cost = coming[len(calls) % len(coming)]
            caller = "a" if caller == "b" else caller  # the subject's own later calls are behind it by the other rule
            queue.push(len(calls), caller, weight=WEIGHTS[caller], service_class=service_class, cost_tokens=cost)
            calls.append((caller, service_class, cost))
        (item,) = queue.peek(1)
        queue.take(item)
        served += calls[item][2]

        # Within its class the others' weights are 1 and 5 against its 2, and the class has at least 1/21.
        assert served <= ((rest + COST_MAX) * (1 + (1 + 5) / 2) + 3 * COST_MAX) * 21 + 3 * COST_MAX


def test_single_call_is_not_delayed_by_a_burst_of_another_caller() -> None:
    """One caller's thousand calls are in front of its own next call, not of everybody's."""
    queue = a_backlog(*[("a", STANDARD, 500)] * 1_000)
    for _ in range(10):
        queue.take(queue.peek(1)[0])
    queue.push(5_000, "b", weight=1.0, service_class=STANDARD, cost_tokens=COST_MAX)

    assert queue.peek(2).index(5_000) == 0


def test_single_call_that_comes_with_a_burst_waits_for_one_call() -> None:
    """At a tie the earlier goes first; that is the 'about one call' of the promise."""
    queue = a_backlog(*[("a", STANDARD, 500)] * 1_000, ("b", STANDARD, 500))

    assert list(queue).index(1_000) == 1


@pytest.mark.parametrize("lower", [STANDARD, BATCH])
def test_interactive_call_goes_ahead_of_a_backlog_of_a_lower_class(lower: ServiceClass) -> None:
    """A person who waits is served next, however much other work is there, and again for a while."""
    queue = a_backlog(*[("a", lower, 500)] * 1_000)
    for item in range(20):
        queue.take(item)
    for item in range(5_000, 5_020):
        queue.push(item, "b", weight=2.0, service_class=INTERACTIVE, cost_tokens=500)
    urgent = [item >= 5_000 for item in queue.peek(10)]

    assert sum(urgent) >= (8 if lower is STANDARD else 10) - 1
    assert urgent[0]


def test_caller_that_idled_has_no_credit() -> None:
    """What was not used is not saved up: after a pause a caller takes turns like everybody."""
    queue = a_backlog(*[("a", STANDARD, 100)] * 300)
    for item in range(200):  # b could have come all the while
        queue.take(item)
    for item in range(1_000, 1_100):
        queue.push(item, "b", weight=1.0, service_class=STANDARD, cost_tokens=100)

    assert Counter("b" if item >= 1_000 else "a" for item in queue.peek(40)) == {"a": 20, "b": 20}


def test_class_that_idled_has_no_credit() -> None:
    """The same among classes: batch work that comes late gets its share from now on, not of the past."""
    queue = a_backlog(*[("a", INTERACTIVE, 100)] * 800)
    for item in range(400):
        queue.take(item)
    for item in range(1_000, 1_100):
        queue.push(item, "b", weight=1.0, service_class=BATCH, cost_tokens=100)

    assert sum(item >= 1_000 for item in queue.peek(170)) == 10


def test_withdrawn_calls_cost_their_caller_nothing() -> None:
    """A client that gives up on a thousand calls is not put behind for them."""
    queue = a_backlog(*[("a", STANDARD, 500)] * 1_000, *[("b", STANDARD, 500)] * 50)
    for item in range(1_000):
        queue.withdraw(item)
    queue.push(5_000, "a", weight=1.0, service_class=STANDARD, cost_tokens=500)

    assert 5_000 in queue.peek(2)


def test_blocked_calls_do_not_hide_those_of_others() -> None:
    """While no account can take a caller's calls, others are served past them; the look-ahead still shows everybody."""
    queue = a_backlog(*[("a", STANDARD, 10)] * 400, *[("b", STANDARD, 10)] * 400)
    for item in range(400, 700):
        queue.take(item)

    assert queue.peek(1) == [0]
    assert sum(item >= 400 for item in queue.peek(20)) >= 9


def test_debt_is_forgotten_when_nobody_waits() -> None:
    """Who used an idle pool took nothing from anybody."""
    queue = a_backlog(("a", STANDARD, 1_000_000))
    queue.take(0)
    queue.push(1, "a", weight=1.0, service_class=STANDARD, cost_tokens=10)
    queue.push(2, "b", weight=1.0, service_class=STANDARD, cost_tokens=10)

    assert queue.peek(2) == [1, 2]


@settings(deadline=None)
@given(st.lists(pushes, min_size=1, max_size=60), st.data())
def test_restored_call_is_in_front_of_its_line_again(
    calls: list[tuple[str, ServiceClass, int]], data: st.DataObject
) -> None:
    """A call whose account began to cool, or failed, does not go to the end of a line in which it was first."""
    queue = a_backlog(*calls)
    before = list(queue)
    taken = before[: data.draw(st.integers(1, 3))]
    for item in taken:
        queue.take(item)
    for item in reversed(taken):
        caller, service_class, cost = calls[item]
        queue.restore(item, caller, weight=WEIGHTS[caller], service_class=service_class, cost_tokens=cost)
    after = list(queue)

    assert sorted(after) == sorted(before)
    for key in {call[:2] for call in calls}:
        mine = [item for item in before if calls[item][:2] == key]
        assert [item for item in after if item in mine] == mine
    for item in after:
        assert queue.peek(1) == [item]
        queue.take(item)


def test_restored_call_costs_its_caller_nothing() -> None:
    """A caller whose calls come back again and again keeps its share."""
    queue = a_backlog(*[("a", STANDARD, 100)] * 50, *[("b", STANDARD, 100)] * 50)
    for _ in range(20):
        queue.take(0)
        queue.restore(0, "a", weight=1.0, service_class=STANDARD, cost_tokens=100)

    # b weighs twice as much.
    assert sum(item < 50 for item in queue.peek(21)) == 7


def test_restored_call_finds_room_in_a_full_queue() -> None:
    """It was accepted; who came meanwhile must not cost it its place."""
    queue: FairQueue[str] = FairQueue(1)
    queue.push("one", "a", weight=1.0, service_class=STANDARD, cost_tokens=1)
    queue.take("one")
    queue.push("two", "a", weight=1.0, service_class=STANDARD, cost_tokens=1)
    queue.restore("one", "a", weight=1.0, service_class=STANDARD, cost_tokens=1)

    assert queue.peek(3) == ["one", "two"]
    assert queue.full


def test_displaced_is_the_newest_call_of_the_largest_backlog() -> None:
    """A burst that fills the queue does not shut out the others; nor does anybody displace their equal."""
    queue = a_backlog(*[("a", INTERACTIVE, 10)] * 5, *[("a", BATCH, 10)] * 4, ("b", BATCH, 10))

    assert queue.find_displaced("c") == 8
    assert queue.find_displaced("a") is None
    queue.withdraw(8)
    for item in range(3, 8):
        queue.withdraw(item)
    assert queue.find_displaced("b") == 2
    queue.withdraw(2)
    assert queue.find_displaced("b") is None


@pytest.mark.parametrize(
    "push",
    [
        lambda queue: queue.push(0, "a", weight=1.0, service_class=STANDARD, cost_tokens=1),
        lambda queue: queue.push(9, "a", weight=0.0, service_class=STANDARD, cost_tokens=1),
        lambda queue: queue.push(9, "a", weight=1.0, service_class=STANDARD, cost_tokens=0),
    ],
    ids=["twice", "weight", "cost"],
)
def test_push_is_refused_when_it_makes_no_sense(push: Callable[[FairQueue[int]], None]) -> None:
    """Twice the same call, or a number that would stop the clock, is our own bug."""
    with pytest.raises(ValueError):
        push(a_backlog(("a", STANDARD, 1)))


def test_push_is_refused_when_full() -> None:
    """The bound holds even if the owner does not look."""
    queue: FairQueue[str] = FairQueue(1)
    queue.push("one", "a", weight=1.0, service_class=STANDARD, cost_tokens=1)

    assert queue.full
    with pytest.raises(ValueError, match="full"):
        queue.push("two", "b", weight=1.0, service_class=STANDARD, cost_tokens=1)
    assert len(queue) == 1


def test_take_of_an_unknown_call_is_refused_and_withdrawal_is_not() -> None:
    """A call that was served may time out at the same moment; serving one that left is a bug."""
    queue = a_backlog(("a", STANDARD, 1))

    assert not queue.withdraw(7)
    with pytest.raises(KeyError):
        queue.take(7)


def test_memory_is_bounded_by_what_waits() -> None:
    """Callers that come and go leave nothing behind, even while someone else always waits."""
    queue: FairQueue[int] = FairQueue(100)
    queue.push(0, "a", weight=1.0, service_class=STANDARD, cost_tokens=1)
    for item in range(1, 5_000):
        queue.push(item, f"caller {item}", weight=1.0, service_class=STANDARD, cost_tokens=1)
        if item % 2:
            queue.withdraw(item)
        else:
            queue.push(-item, "a", weight=1.0, service_class=STANDARD, cost_tokens=1)
            for first in queue.peek(2):
                queue.take(first)
    lane = queue._lanes[STANDARD]

    assert len(lane._heap) + len(lane._lines) <= 2 * STALE_MIN
    assert len(queue._counts) <= 1 + len(queue)
