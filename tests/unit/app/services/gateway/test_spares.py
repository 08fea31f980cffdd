"""Spare permits in the hand follow the demand, expire, and are known by who gave them."""

from __future__ import annotations

import pytest

from app.domain.gateway import Candidate
from app.domain.leases import BUNDLE_MAX, PERMIT_VALID_S, Bundle
from app.services.gateway.spares import Slot, Slots

S = 1_000_000_000


def a_bundle(count: int = 3, *, prefix: str = "p", input_tokens: int = 100, output_tokens: int = 50) -> Bundle:
    return Bundle(
        prefix=prefix,
        account="a",
        model="m",
        count=count,
        input_tokens=input_tokens,
        output_tokens_max=output_tokens,
    )


def a_slot(*bundles: Bundle, account: str = "a", asked_ns: int = 0, host: str = "h") -> Slot:
    slot = Slot(account, "m")
    for bundle in bundles:
        slot.take_bundle(bundle, asked_ns, host)
    return slot


def test_slot_drops_spares_when_they_are_out_of_date() -> None:
    """They are valid from before they were asked for, so no clock of ours can make them last longer."""
    slot = a_slot(a_bundle(2, prefix="old"))
    slot.take_bundle(a_bundle(1, prefix="new"), S // 2, "h")
    expires_ns = int(PERMIT_VALID_S * S)

    assert slot.fits(1, 1, expires_ns - 1)
    assert not slot.fits(1, 1, expires_ns)
    assert list(slot.drop(expires_ns)) == [("old/0", "h"), ("old/1", "h")]
    assert slot.fits(1, 1, expires_ns)
    assert list(slot.drop()) == [("new/0", "h")]


def test_slot_drops_only_the_spares_of_one_host_when_that_is_lost() -> None:
    """An account that moved may have spares of two hosts."""
    slot = a_slot(a_bundle(1, prefix="old"))
    slot.take_bundle(a_bundle(1, prefix="new"), 0, "other")

    assert slot.drop_from("h") == ["old/0"]
    assert [spare[0] for spare in slot.spares] == ["new/0"]


@pytest.mark.parametrize(("tokens", "fits"), [((100, 50), True), ((101, 1), False), ((1, 51), False)])
def test_slot_gives_a_spare_only_when_the_call_is_no_larger(tokens: tuple[int, int], fits: bool) -> None:
    """A spare permit was charged for its own size."""
    assert a_slot(a_bundle()).fits(*tokens, now_ns=0) is fits


def test_slot_asks_for_what_it_will_use_when_it_runs_low() -> None:
    """Once until the answer, and never more than a host gives at all."""
    slot = a_slot()
    for _ in range(10_000):
        slot.note_demand(1_000, 200)
    slot.tick(0.2)
    wish = slot.wish()

    assert wish is not None
    assert wish.count == BUNDLE_MAX
    assert wish.input_tokens >= 1_000
    assert wish.output_tokens_max >= 200
    assert slot.wish() is None


def test_slot_asks_for_little_when_the_demand_is_over() -> None:
    """What is not used would be held back from others."""
    slot = a_slot()
    for _ in range(100):
        slot.note_demand(10, 10)
    for _ in range(30):
        slot.tick(0.2)
    wish = slot.wish()

    assert wish is not None
    assert wish.count == 1


def test_slots_take_the_least_loaded_account_when_several_have_spares() -> None:
    """Estimated wait: calls under way times their duration."""
    slots = Slots()
    for name, outstanding, call_s in (("a", 3, 1.0), ("b", 1, 1.0), ("c", 1, 5.0)):
        slot = slots.of(name, "m")
        slot.take_bundle(a_bundle(), 0, "h")
        slot.outstanding, slot.call_s, slot.measured = outstanding, call_s, True
    candidates = (Candidate(model="m", accounts=("a", "b", "c")),)

    def chosen(avoid: str = "") -> str | None:
        slot, _lighter = slots.choose(candidates, 1, 1, frozenset({avoid}), 0)
        return slot.account if slot is not None else None

    assert chosen() == "b"
    assert chosen(avoid="b") == "a"


def test_slots_name_the_account_that_has_less_to_do_and_no_spares() -> None:
    """Else an account without spare permits would never be asked while another has some."""
    slots = Slots()
    busy = slots.of("a", "m")
    busy.take_bundle(a_bundle(), 0, "h")
    busy.outstanding, busy.call_s, busy.measured = 3, 1.0, True
    candidates = (Candidate(model="m", accounts=("a", "b")),)
    best, lighter = slots.choose(candidates, 1, 1, frozenset(), 0)

    assert best is busy
    assert lighter is slots.of("b", "m")


def test_slots_take_a_later_model_only_when_every_account_of_the_first_has_refused() -> None:
    """The client's first choice is worth a message."""
    slots = Slots()
    slots.of("x", "second").take_bundle(a_bundle(), 0, "h")
    candidates = (Candidate(model="m", accounts=("a", "b")), Candidate(model="second", accounts=("x",)))
    slots.of("a", "m").closed_ns = S

    assert slots.choose(candidates, 1, 1, frozenset(), 0) == (None, None)
    slots.of("b", "m").closed_ns = S
    found, _lighter = slots.choose(candidates, 1, 1, frozenset(), 0)
    assert found is not None
    assert found.model == "second"


def test_slot_is_idle_only_when_nothing_would_be_lost() -> None:
    """A slot is forgotten with its account, but not while a permit of it is out or asked for."""
    slot = a_slot()
    assert slot.is_idle(0)
    slot.outstanding = 1
    assert not slot.is_idle(0)
    assert not a_slot(a_bundle()).is_idle(0)
