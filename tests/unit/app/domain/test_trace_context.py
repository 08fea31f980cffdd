"""W3C's trace context, in and out."""

from __future__ import annotations

import asyncio

import pytest

from app.domain.trace_context import NO_SPAN, TraceContext, current, enter, parse_parent, use

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_parent_is_read_and_written_alike() -> None:
    """What came in goes out again."""
    context = parse_parent(f"00-{TRACE}-{SPAN}-01", "vendor=1")

    assert context == TraceContext(trace_id=TRACE, span_id=SPAN, sampled=True, state="vendor=1")
    assert context.parent == f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "nonsense",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
    ],
)
def test_parent_that_is_not_valid_is_as_none(wrong: str) -> None:
    """The standard: start a new trace rather than guess."""
    assert parse_parent(wrong) is None


def test_parent_of_a_later_version_is_read_as_far_as_known() -> None:
    """The standard asks for it, so that a newer caller keeps its trace; other flags mean nothing to us."""
    context = parse_parent(f"cc-{TRACE}-{SPAN}-03-what-the-future-holds")

    assert context is not None
    assert (context.trace_id, context.sampled) == (TRACE, True)
    assert parse_parent(f"00-{TRACE}-{SPAN}-02") == TraceContext(trace_id=TRACE, span_id=SPAN)


def test_state_that_is_too_long_or_not_text_is_dropped() -> None:
    """It goes into headers again: what could break one must not."""
    for state in ("x" * 513, "a=\r\nb"):
        context = parse_parent(f"00-{TRACE}-{SPAN}-01", state)

        assert context is not None
        assert context.state == ""


def test_parent_without_a_span_is_still_valid() -> None:
    """A trace of ours that records nothing is told to providers all the same, where they are told."""
    context = TraceContext(trace_id=TRACE, span_id=NO_SPAN)

    assert parse_parent(context.parent) is not None


async def test_context_is_carried_into_tasks_and_left_again() -> None:
    """Two requests at once do not see each other's trace."""
    one, other = TraceContext(trace_id=TRACE, span_id=SPAN), TraceContext(trace_id=TRACE[::-1], span_id=SPAN)

    async def inside(context: TraceContext) -> TraceContext | None:
        enter(context)
        await asyncio.sleep(0)
        return await asyncio.create_task(found())

    async def found() -> TraceContext | None:
        return current()

    with use(one):
        assert list(await asyncio.gather(inside(one), inside(other))) == [one, other]
        assert current() is one
    assert current() is None
