"""The office lends permits within the limits, and settles every one of them exactly once, come what may."""

from __future__ import annotations

from typing import Literal

import pytest

from app.domain.account_state import SECOND_NS, AccountBook
from app.domain.accounts import AccountSpec, ModelInfo, Provider
from app.domain.calls import Admission
from app.domain.chat import Usage
from app.domain.errors import UpstreamError, UpstreamKind
from app.domain.leases import (
    BUNDLE_MAX,
    PERMIT_VALID_MAX_S,
    PERMIT_VALID_S,
    Bundle,
    BundleWish,
    Exchange,
    PermitReport,
    PermitWish,
)
from app.domain.limits import LimitSpec
from app.domain.permit_office import NOT_SERVED, SILENCE_NS, PermitOffice

S = SECOND_NS


class Counter:
    """An office with one account, and what it says."""

    def __init__(self, limits: LimitSpec = LimitSpec(rpm=60, concurrency=20, burst_ms=10_000)) -> None:
        account = AccountSpec(name="a", provider=Provider.OPENAI, models=(("m", "m"),), limits=(("m", limits),))
        self.book = AccountBook()
        self.book.configure([account], [ModelInfo(name="m", family="f")], {}, 0, 0)
        self.office = PermitOffice(self.book, "life")

    def tell(self, message: Exchange, now_ns: int = 0) -> tuple[list[Admission], list[Bundle]]:
        self.office.settle(message, now_ns, now_ns)
        return self.office.grant(message, now_ns, now_ns)

    @property
    def in_flight(self) -> int:
        row = self.book.row("a", "m", 0)
        assert row is not None
        return row.in_flight


def wish(call_id: str, **more: float) -> PermitWish:
    return PermitWish(
        call_id=call_id,
        account="a",
        model="m",
        input_tokens=10,
        output_tokens_max=10,
        headroom=more.get("headroom", 0.0),
        horizon_s=0.0,
    )


def spares(count: int = 4) -> BundleWish:
    return BundleWish(account="a", model="m", count=count, input_tokens=10, output_tokens_max=10)


def ended(call_id: str, ending: Literal["answered", "failed", "cancelled", "withdrawn"] = "answered") -> PermitReport:
    usage = Usage(input_tokens=1, output_tokens=1)
    return PermitReport(call_id=call_id, ending=ending, usage=usage)


def test_office_settles_a_permit_once_when_it_is_reported_twice() -> None:
    """Reports are told again after a lost message: only the first counts."""
    counter = Counter()
    counter.tell(Exchange(owner="o", number=1, wishes=(wish("x"), wish("y"))))
    counter.tell(Exchange(owner="o", number=2, reports=(ended("x"), ended("x", "withdrawn"))))
    counter.tell(Exchange(owner="o", number=3, reports=(ended("x"), ended("unknown"))))

    assert counter.office.held == 1
    assert counter.in_flight == 1


def test_office_takes_back_what_a_lost_message_was_granted() -> None:
    """Its holder never learnt the permits, so nobody uses or reports them; those of other messages stay."""
    counter = Counter()
    counter.tell(Exchange(owner="o", number=1, wishes=(wish("x"),)))
    counter.tell(Exchange(owner="o", number=2, wishes=(wish("y"),), bundles=(spares(),)))
    assert counter.office.held == 6
    counter.tell(Exchange(owner="other", number=2, wishes=(wish("z"),)))
    counter.tell(Exchange(owner="o", number=3, lost=(2,)))

    assert counter.office.held == 2
    assert counter.in_flight == 2


def test_office_ignores_a_message_when_a_later_one_has_overtaken_it() -> None:
    """It was given up for lost: what it granted now, nobody would hear."""
    counter = Counter()
    counter.tell(Exchange(owner="o", number=2, lost=(1,), wishes=(wish("new"),)))
    admissions, bundles = counter.tell(Exchange(owner="o", number=1, wishes=(wish("old"),), bundles=(spares(),)))

    assert [each.admitted for each in admissions] == [False]
    assert bundles == []
    assert counter.office.held == 1


def test_office_grants_nothing_twice_when_a_message_is_delivered_twice() -> None:
    """The second delivery is void."""
    counter = Counter()
    message = Exchange(owner="o", number=1, wishes=(wish("x"),), bundles=(spares(),))
    counter.tell(message)
    admissions, bundles = counter.tell(message)

    assert [each.admitted for each in admissions] == [False]
    assert bundles == []
    assert counter.office.held == 5


def test_office_settles_what_a_silent_holder_held_when_silence_has_lasted() -> None:
    """It counts as used, and the slots are free again; who still talks keeps everything."""
    counter = Counter()
    counter.tell(Exchange(owner="dead", number=1, wishes=(wish("x"), wish("y"))))
    counter.tell(Exchange(owner="alive", number=1, wishes=(wish("z"),)))
    counter.tell(Exchange(owner="alive", number=2), SILENCE_NS)
    counter.office.sweep(SILENCE_NS)
    assert counter.office.held == 3
    counter.office.sweep(SILENCE_NS + 1)

    assert counter.office.held == 1
    assert counter.in_flight == 1
    counter.tell(Exchange(owner="dead", number=2, reports=(ended("x"),)), SILENCE_NS + 2)
    assert counter.in_flight == 1


def test_office_gives_spares_only_when_the_account_is_far_from_its_limits() -> None:
    """Half of every limit stays for those who ask; a bundle has its own bound."""
    counter = Counter()
    _admissions, bundles = counter.tell(Exchange(owner="o", number=1, bundles=(spares(BUNDLE_MAX),)))
    _admissions, more = counter.tell(Exchange(owner="o", number=2, bundles=(spares(),)))

    assert 5 <= bundles[0].count <= 6
    assert more == []
    roomy = Counter(LimitSpec(rpm=1_000_000))
    _admissions, bundles = roomy.tell(Exchange(owner="o", number=1, bundles=(spares(10 * BUNDLE_MAX),)))
    assert bundles[0].count == BUNDLE_MAX


@pytest.mark.parametrize(
    ("limits", "valid_s"),
    [
        (LimitSpec(rpm=60_000), PERMIT_VALID_MAX_S),
        (LimitSpec(rpm=60_000, tpm=4_800), PERMIT_VALID_S),
        (LimitSpec(rpm=1_800), PERMIT_VALID_S),
        (LimitSpec(rpm=60_000, concurrency=1_000), PERMIT_VALID_S),
        (LimitSpec(rpm=60_000, window="sliding"), PERMIT_VALID_S),
    ],
    ids=["far", "tokens", "near", "slots", "sliding"],
)
def test_office_lets_spares_be_kept_longer_only_where_nobody_misses_them(limits: LimitSpec, valid_s: float) -> None:
    """Little beside what the buckets hold; never slots, never a window that slides."""
    _admissions, bundles = Counter(limits).tell(Exchange(owner="r", bundles=(spares(4),)))

    assert [bundle.valid_s for bundle in bundles] == [valid_s]


def test_office_keeps_headroom_free_of_work_that_leaves_it() -> None:
    """Batch work stops where the others may still go on."""
    counter = Counter(LimitSpec(rpm=60, burst_ms=10_000))
    wishes = tuple(wish(f"batch-{number}", headroom=0.3) for number in range(20))
    admissions, _bundles = counter.tell(Exchange(owner="o", number=1, wishes=wishes))
    assert sum(each.admitted for each in admissions) == 7
    admissions, _bundles = counter.tell(
        Exchange(owner="o", number=2, wishes=tuple(wish(f"other-{number}") for number in range(20)))
    )

    assert sum(each.admitted for each in admissions) == 3


@pytest.mark.parametrize(
    ("kind", "ends"),
    [
        (UpstreamKind.MINUTE_LIMIT, True),
        (UpstreamKind.DAY_LIMIT, True),
        (UpstreamKind.DEAD_KEY, True),
        (UpstreamKind.OVERLOADED, False),
        (UpstreamKind.INVALID_REQUEST, False),
    ],
)
def test_office_ends_the_epoch_when_the_provider_refuses_the_account(kind: UpstreamKind, ends: bool) -> None:
    """Spare permits elsewhere would be refused as well."""
    counter = Counter()
    counter.tell(Exchange(owner="o", number=1, wishes=(wish("x"),)))
    report = PermitReport(call_id="x", ending="failed", error=UpstreamError("failed", kind=kind))
    counter.tell(Exchange(owner="o", number=2, reports=(report, report)))

    assert counter.office.epoch == int(ends)
    assert counter.office.held == 0


def test_office_grants_nothing_when_it_is_closed_or_does_not_serve_the_account() -> None:
    """It still settles: a draining host waits for its permits."""
    counter = Counter()
    counter.tell(Exchange(owner="o", number=1, wishes=(wish("x"),)))
    unknown = PermitWish(call_id="y", account="b", model="m", input_tokens=1, output_tokens_max=1)
    admissions, _bundles = counter.tell(Exchange(owner="o", number=2, wishes=(unknown,)))
    assert [(each.admitted, each.reason) for each in admissions] == [(False, NOT_SERVED)]
    counter.office.closed = True
    admissions, bundles = counter.tell(
        Exchange(owner="o", number=3, reports=(ended("x"),), wishes=(wish("z"),), bundles=(spares(),))
    )

    assert not admissions[0].admitted
    assert bundles == []
    assert counter.office.held == 0


def test_office_says_for_good_when_a_call_can_never_fit() -> None:
    """More than a whole window: nobody need ask again."""
    counter = Counter(LimitSpec(tpm=15, window="sliding"))
    admissions, _bundles = counter.tell(Exchange(owner="o", number=1, wishes=(wish("x"),)))

    assert admissions[0].too_large
    assert "tpm" in admissions[0].reason
