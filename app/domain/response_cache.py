"""Keeps complete answers for a while, within a bound in bytes, and replays one as a stream.

Deliberately knows no requests: keys come from ``cache_key``. Time is an argument. Lost with its process, which costs
one upstream call per answer. Asked by the gateway before it routes a call, told after one was answered.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from app.domain.chat import ChatDelta, ChatResult, FinishReason

KEPT_FINISHES = frozenset({FinishReason.STOP, FinishReason.TOOL_CALLS})
"""An answer that was cut off or filtered may be whole the next time."""
LARGEST_SHARE = 8
"""A single answer may fill at most the eighth part of the cache."""
ANSWER_BYTES = 900
"""Of one entry beside its texts: key, table slot, result, usage with its numbers."""
CHOICE_BYTES = 450
TOOL_CALL_BYTES = 120
PIECE_CHARS = 240
"""Length of a replayed piece: few events for the client's parser, yet small enough to show at once."""
NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheCounts:
    """What the cache did since it was made, and what it holds."""

    hits: int
    misses: int
    """Expired answers included."""
    stored: int
    refused: int
    """Answers that were offered and not kept: unfit or too large."""
    evicted: int
    """Answers that made room for others."""
    answers: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    result: ChatResult
    size_bytes: int
    expires_ns: int


class ResponseCache:
    """Answers by key; when full, the one that was not asked for longest makes room.

    Args:
        size_bytes_max: Bound of what is held, as estimated by ``result_bytes``. Zero keeps nothing.
        ttl_s: How long an answer may be given again, in seconds. Positive.

    Not thread-safe: the owner's event loop is the lock.
    """

    def __init__(self, size_bytes_max: int, ttl_s: float) -> None:
        if size_bytes_max < 0 or not ttl_s > 0:
            raise ValueError(f"size {size_bytes_max!r} must not be negative, and ttl {ttl_s!r} must be positive")
        self._size_bytes_max = size_bytes_max
        self._ttl_ns = int(ttl_s * NS_PER_S)
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._size_bytes = 0
        self._hits = self._misses = self._stored = self._refused = self._evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, now_ns: int) -> ChatResult | None:
        """Return the answer, as it was first given, usage included; None where there is none.

        Args:
            key: As made by ``cache_key``.
            now_ns: Monotonic time, in nanoseconds.
        """
        entry = self._entries.get(key)
        if entry is None or entry.expires_ns <= now_ns:
            if entry is not None:
                self._drop(key)
            self._misses += 1
            return None
        self._entries.move_to_end(key)
        self._hits += 1
        return entry.result

    def put(self, key: bytes, result: ChatResult, now_ns: int) -> bool:
        """Keep an answer, in place of an earlier one; return whether it is kept.

        What the provider said about its limits at the time is not part of it: a hit must teach no limiter anything.
        """
        size_bytes = result_bytes(result)
        if size_bytes * LARGEST_SHARE > self._size_bytes_max or not _is_repeatable(result):
            self._refused += 1
            return False
        if key in self._entries:
            self._drop(key)
        while self._size_bytes + size_bytes > self._size_bytes_max:
            self._drop(next(iter(self._entries)))
            self._evicted += 1
        kept = replace(
            result,
            observations=(),
            other_choices=tuple(replace(choice, observations=()) for choice in result.other_choices),
        )
        self._entries[key] = _Entry(result=kept, size_bytes=size_bytes, expires_ns=now_ns + self._ttl_ns)
        self._size_bytes += size_bytes
        self._stored += 1
        return True

    def clear(self) -> None:
        """Forget every answer; the counts go on."""
        self._entries.clear()
        self._size_bytes = 0

    def counts(self) -> CacheCounts:
        """Return the counts for the metrics."""
        return CacheCounts(
            hits=self._hits,
            misses=self._misses,
            stored=self._stored,
            refused=self._refused,
            evicted=self._evicted,
            answers=len(self._entries),
            size_bytes=self._size_bytes,
        )

    def _drop(self, key: bytes) -> None:
        self._size_bytes -= self._entries.pop(key).size_bytes


def result_bytes(result: ChatResult) -> int:
    """Estimate the memory that a kept answer takes, rather high than low, without copying any of it."""
    return ANSWER_BYTES + sum(_choice_bytes(choice) for choice in (result, *result.other_choices))


def replay(result: ChatResult) -> list[ChatDelta]:
    """Return a complete answer as the stream that could have made it; the last delta carries the usage.

    Per choice: reasoning, text, tool calls, and the reason of its end. What a stream has no field for (``refusal``) is
    not in it; no answer that has it is kept.
    """
    deltas = [delta for index, choice in enumerate(_choices(result)) for delta in _replay_choice(choice, index)]
    deltas[0] = replace(deltas[0], model=result.model or None, provider_id=result.provider_id)
    deltas[-1] = replace(deltas[-1], usage=result.usage)
    return deltas


def _replay_choice(choice: ChatResult, index: int) -> Iterator[ChatDelta]:
    for piece in _pieces(choice.reasoning or ""):
        yield ChatDelta(reasoning=piece, choice=index)
    if choice.reasoning_signature is not None:
        yield ChatDelta(reasoning_signature=choice.reasoning_signature, choice=index)
    for piece in _pieces(choice.text):
        yield ChatDelta(text=piece, choice=index)
    for number, call in enumerate(choice.tool_calls):
        yield ChatDelta(
            tool_index=number,
            tool_id=call.id,
            tool_name=call.name,
            tool_arguments=call.arguments,
            tool_signature=call.signature,
            choice=index,
        )
    yield ChatDelta(finish_reason=choice.finish_reason, stop_sequence=choice.stop_sequence, choice=index)


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), PIECE_CHARS):
        yield text[start : start + PIECE_CHARS]


def _choices(result: ChatResult) -> tuple[ChatResult, ...]:
    return (result, *result.other_choices)


def _is_repeatable(result: ChatResult) -> bool:
    return all(choice.finish_reason in KEPT_FINISHES and choice.refusal is None for choice in _choices(result))


def _choice_bytes(choice: ChatResult) -> int:
    signature, stop = choice.reasoning_signature, choice.stop_sequence
    texts = (choice.text, choice.reasoning, signature, stop, choice.model, choice.provider_id)
    calls = sum(
        TOOL_CALL_BYTES + sum(_text_bytes(text) for text in (call.id, call.name, call.arguments, call.signature))
        for call in choice.tool_calls
    )
    return CHOICE_BYTES + calls + sum(_text_bytes(text) for text in texts)


def _text_bytes(text: str | None) -> int:
    if text is None:
        return 0
    # Python keeps a second form of a text, its UTF-8, once it was encoded; of plain ASCII it is the same memory.
    return sys.getsizeof(text) + (0 if text.isascii() else 4 * len(text))
