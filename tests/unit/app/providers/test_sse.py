"""Events are cut out of bytes, however the bytes come."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.providers.sse import EventTooLargeError, SseEvent, SseParser

STREAM = (
    "\ufeffevent: first\r\ndata: one\r\n\r\n: keep-alive\r\n\r\n"
    "data:two\ndata:  lines\nid: 7\nretry: 3\n\n"
    "data: é世界\r\rdata\n\nevent: nothing\n\n"
).encode()
EVENTS = [
    SseEvent("first", "one"),
    SseEvent("message", "two\n lines"),
    SseEvent("message", "é世界"),
    SseEvent("message", ""),
]


def parse(chunks: list[bytes]) -> list[SseEvent]:
    parser = SseParser()
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    return events + parser.end()


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_do_not_depend_on_where_the_bytes_are_cut(cuts: list[int]) -> None:
    """All line ends, comments, several data lines, letters of several bytes: the network may cut anywhere."""
    places = [0, *sorted(cuts), len(STREAM)]

    assert parse([STREAM[start:end] for start, end in pairwise(places)]) == EVENTS


def test_events_come_byte_by_byte() -> None:
    """The extreme case of the above."""
    assert parse([bytes([byte]) for byte in STREAM]) == EVENTS


LINES = [
    b"data: one",
    b"data:two",
    b"data",
    b"event: name",
    b"event: ",
    b"event",
    b"id: 7",
    b": comment",
    b"",
    b"",
    b"",
]
ODD_LINES = [b"data: \xc3\xa9\xe4\xb8\x96", b"data: half \xe4\xb8", b"data: \xff", b"data:  \xef\xbb\xbf", b"noise"]


@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from(LINES + ODD_LINES), st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"])), max_size=6
        ),
        max_size=6,
    )
)
def test_chunks_of_whole_lines_give_the_same_events_as_single_bytes(chunks: list[list[tuple[bytes, bytes]]]) -> None:
    """Whole events take a shorter way through the parser; it must lead to the same place."""
    pieces = [b"".join(line + end for line, end in chunk) for chunk in chunks]

    assert parse(pieces) == parse([bytes([byte]) for byte in b"".join(pieces)])


def test_event_without_last_blank_line_is_given_at_the_end() -> None:
    """Several servers omit it; one that broke off within a line is marked."""
    assert parse([b"data: one\n"]) == [SseEvent("message", "one")]
    assert parse([b"data: on"]) == [SseEvent("message", "on", whole=False)]
    assert parse([b": comment"]) == []


@pytest.mark.parametrize(
    "chunks",
    [
        [b"data: " + b"x" * 100],
        [b"x" * 60, b"x" * 60],
        [b"data: 45 bytes\n"] * 20,
        [b"data: first\n\n", b"data: " + b"x" * 101 + b"\n\n"],
    ],
)
def test_line_or_event_beyond_the_bound_is_refused(chunks: list[bytes]) -> None:
    """No server fills our memory with one line, or with one event of many."""
    parser = SseParser(event_bytes_max=100)

    with pytest.raises(EventTooLargeError):
        list(map(parser.feed, chunks))
