"""A kept answer comes back as it was, for its time, within the bound; as a stream too."""

from __future__ import annotations

import gc
import tracemalloc
from collections import OrderedDict
from dataclasses import replace

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.chat import ChatDelta, ChatResult, FinishReason, LimitObservation, ToolCall, Usage
from app.domain.response_cache import LARGEST_SHARE, PIECE_CHARS, ResponseCache, replay, result_bytes

S = 1_000_000_000
SMALL = result_bytes(ChatResult(text=""))
texts = st.text(max_size=3 * PIECE_CHARS)
choices = st.builds(
    ChatResult,
    text=texts,
    reasoning=st.none() | st.text(min_size=1, max_size=2 * PIECE_CHARS),
    reasoning_signature=st.none() | st.text(min_size=1, max_size=9),
    tool_calls=st.lists(
        st.builds(ToolCall, id=st.text(), name=st.text(), arguments=texts, signature=st.none() | st.text(min_size=1)),
        max_size=3,
    ).map(tuple),
    finish_reason=st.sampled_from(list(FinishReason)),
    stop_sequence=st.none() | st.text(min_size=1, max_size=9),
)
results = st.builds(
    replace,
    choices,
    usage=st.builds(Usage, input_tokens=st.integers(0, 9), output_tokens=st.integers(0, 9)),
    model=st.text(max_size=9),
    provider_id=st.none() | st.text(max_size=9),
    other_choices=st.lists(choices, max_size=2).map(tuple),
)


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def put_together(deltas: list[ChatDelta]) -> ChatResult:
    """Return the answer that a client reads from a stream."""
    parts: dict[int, ChatResult] = {}
    calls: dict[tuple[int, int], ToolCall] = {}
    for delta in deltas:
        part = parts.get(delta.choice, ChatResult(text=""))
        if delta.tool_index is not None:
            old = calls.get((delta.choice, delta.tool_index), ToolCall(id="", name="", arguments=""))
            calls[delta.choice, delta.tool_index] = ToolCall(
                id=delta.tool_id or old.id,
                name=delta.tool_name or old.name,
                arguments=old.arguments + delta.tool_arguments,
                signature=delta.tool_signature or old.signature,
            )
        parts[delta.choice] = replace(
            part,
            text=part.text + delta.text,
            reasoning=(part.reasoning or "") + delta.reasoning if delta.reasoning or part.reasoning else None,
            reasoning_signature=delta.reasoning_signature or part.reasoning_signature,
            finish_reason=delta.finish_reason or part.finish_reason,
            stop_sequence=delta.stop_sequence or part.stop_sequence,
            tool_calls=tuple(call for (choice, _index), call in calls.items() if choice == delta.choice),
        )
    first, *others = (parts[index] for index in sorted(parts))
    return replace(
        first,
        other_choices=tuple(others),
        model=next((delta.model for delta in deltas if delta.model), ""),
        provider_id=next((delta.provider_id for delta in deltas if delta.provider_id is not None), None),
        usage=next(delta.usage for delta in deltas if delta.usage is not None),
    )


@settings(deadline=None)
@given(results)
def test_replay_streams_exactly_the_answer(result: ChatResult) -> None:
    """A client must not be able to tell a replayed stream's answer from the first one."""
    deltas = replay(result)

    assert put_together(deltas) == result
    assert deltas[-1].finish_reason is not None
    assert [delta.usage for delta in deltas if delta.usage is not None] == [deltas[-1].usage]


@settings(deadline=None)
@given(results)
def test_replay_is_in_the_order_of_a_stream(result: ChatResult) -> None:
    """Reasoning, text, tool calls, end; in pieces that are neither many nor large."""
    for choice in range(1 + len(result.other_choices)):
        deltas = [delta for delta in replay(result) if delta.choice == choice]
        kinds = [
            0 if delta.reasoning else 1 if delta.reasoning_signature else 2 if delta.text
            else 3 if delta.tool_index is not None else 4
            for delta in deltas
        ]  # fmt: skip

        assert kinds == sorted(kinds)
        assert kinds.count(4) == 1
        assert all(len(delta.text) <= PIECE_CHARS and len(delta.reasoning) <= PIECE_CHARS for delta in deltas)
        assert kinds.count(2) <= 1 + 3


def test_answer_comes_back_until_its_time_is_over() -> None:
    """An old answer is a wrong one."""
    cache = ResponseCache(100_000, ttl_s=10)
    answer = ChatResult(text="42", usage=Usage(input_tokens=3, output_tokens=1))
    assert cache.put(key(1), answer, 5 * S)

    assert cache.get(key(1), 15 * S - 1) == answer
    assert cache.get(key(2), 15 * S - 1) is None
    assert cache.get(key(1), 15 * S) is None
    counts = cache.counts()
    assert (counts.hits, counts.misses, counts.answers, counts.size_bytes) == (1, 2, 0, 0)


def test_later_answer_takes_the_place_of_the_earlier() -> None:
    """One key, one answer, counted once, and its time begins anew."""
    cache = ResponseCache(100_000, ttl_s=10)
    cache.put(key(1), ChatResult(text="old"), 0)
    cache.put(key(1), ChatResult(text="new one"), 9 * S)
    found = cache.get(key(1), 18 * S)

    assert found is not None
    assert found.text == "new one"
    assert cache.counts().size_bytes == result_bytes(found)


@pytest.mark.parametrize("finish", FinishReason)
def test_only_whole_answers_are_kept(finish: FinishReason) -> None:
    """A cut or filtered answer may be whole the next time; so may any of several choices."""
    cache = ResponseCache(100_000, ttl_s=10)
    kept = finish in (FinishReason.STOP, FinishReason.TOOL_CALLS)
    bad_choice = ChatResult(text="a", other_choices=(ChatResult(text="b", finish_reason=finish),))

    assert cache.put(key(1), ChatResult(text="a", finish_reason=finish), 0) is kept
    assert cache.put(key(2), bad_choice, 0) is kept
    assert (cache.get(key(1), 0) is not None) is kept
    assert cache.counts().refused == (0 if kept else 2)


def test_refusal_is_not_kept() -> None:
    """A model that refused once may not refuse again."""
    cache = ResponseCache(100_000, ttl_s=10)

    assert not cache.put(key(1), ChatResult(text="", refusal="I cannot"), 0)


def test_hit_says_nothing_of_limits() -> None:
    """What the headers said at the time would set a limiter back to the past."""
    seen = (LimitObservation(scope="requests", limit=9, remaining=0),)
    cache = ResponseCache(100_000, ttl_s=10)
    cache.put(
        key(1), ChatResult(text="a", observations=seen, other_choices=(ChatResult(text="b", observations=seen),)), 0
    )
    found = cache.get(key(1), 0)

    assert found is not None
    assert found == ChatResult(text="a", other_choices=(ChatResult(text="b"),))


def test_large_answer_is_not_kept() -> None:
    """One answer may not push out all the others."""
    largest = ChatResult(text="x" * 1_000)
    cache = ResponseCache(LARGEST_SHARE * result_bytes(largest), ttl_s=10)

    assert cache.put(key(1), largest, 0)
    assert not cache.put(key(2), ChatResult(text="x" * 1_001), 0)
    assert not ResponseCache(0, ttl_s=10).put(key(1), ChatResult(text=""), 0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.integers(0, 1_500)), max_size=80))
def test_cache_keeps_what_was_asked_for_last_within_its_bound(events: list[tuple[bool, int, int]]) -> None:
    """The bound holds after every step, and what is gone is what was not asked for longest."""
    size_bytes_max = 20 * SMALL
    cache = ResponseCache(size_bytes_max, ttl_s=10)
    model: OrderedDict[int, ChatResult] = OrderedDict()
    for is_put, number, length in events:
        if is_put:
            answer = ChatResult(text="x" * length)
            assert cache.put(key(number), answer, 0)
            model.pop(number, None)
            model[number] = answer
            while sum(map(result_bytes, model.values())) > size_bytes_max:
                model.popitem(last=False)
        else:
            assert cache.get(key(number), 0) == model.get(number)
            if number in model:
                model.move_to_end(number)

        assert cache.counts().size_bytes == sum(map(result_bytes, model.values())) <= size_bytes_max
        assert len(cache) == len(model)


@pytest.mark.parametrize("text", ["x" * 20, "x" * 5_000, "ữ" * 5_000, "好" * 300], ids=["short", "long", "vi", "zh"])
def test_estimated_size_is_what_an_answer_takes(text: str) -> None:
    """The bound in bytes is a promise about memory, also after the answers were encoded for a client."""
    count = 300
    cache = ResponseCache(count * 64_000, ttl_s=10)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(count):
            answer = ChatResult(
                text=text + str(number),
                reasoning=f"{number} because",
                tool_calls=(ToolCall(id=f"call {number}", name=f"name {number}", arguments=f"[{number}]"),),
                usage=Usage(input_tokens=number + 1_000, output_tokens=number + 2_000),
                model=f"model {number}",
                provider_id=f"id {number}",
            )
            assert cache.put(key(number), answer, 0)
            found = cache.get(key(number), 0)
            assert found is not None
            orjson.dumps(found.text)
        gc.collect()
        taken_bytes, _peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    estimated_bytes = cache.counts().size_bytes

    assert taken_bytes <= estimated_bytes <= 2.2 * taken_bytes


def test_clear_forgets_all() -> None:
    """An operator's way out of a wrong answer."""
    cache = ResponseCache(100_000, ttl_s=10)
    cache.put(key(1), ChatResult(text="a"), 0)
    cache.clear()

    assert cache.get(key(1), 0) is None
    assert cache.counts().size_bytes == 0


@pytest.mark.parametrize(("size_bytes_max", "ttl_s"), [(-1, 1.0), (1, 0.0), (1, float("nan"))])
def test_cache_refuses_bounds_that_make_no_sense(size_bytes_max: int, ttl_s: float) -> None:
    """A mistake in the configuration is told at the start."""
    with pytest.raises(ValueError):
        ResponseCache(size_bytes_max, ttl_s)
