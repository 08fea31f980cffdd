"""The embedded model's adapter over an engine of ours: translation, slots, cancellation, closing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from app.domain.accounts import AccountSpec, ModelInfo, Provider
from app.domain.chat import ChatRequest, FinishReason, ImagePart, Json, Message, OutputSchema, Role, ToolSpec
from app.domain.errors import CancelledError, RequestError, UpstreamError, UpstreamKind
from app.providers.local import LocalAdapter, schema_gist
from app.providers.local_engine import LocalCompletion

ACCOUNT = AccountSpec(name="local", provider=Provider.LOCAL, models=(("tiny", "tiny"),))
SCHEMA: dict[str, Json] = {
    "type": "object",
    "properties": {
        "verdict": {"enum": ["met", "not_met"]},
        "tasks": {"type": "array", "items": {"type": "object", "properties": {"id": {}, "title": {}}}},
    },
}


class FakeEngine:
    """Answers with fixed pieces, or waits until it is cancelled."""

    def __init__(self, *pieces: str, waits: bool = False) -> None:
        self.bodies: list[dict[str, Json]] = []
        self.running = 0
        self.running_max = 0
        self.entered = threading.Event()
        self.let_go = threading.Event()
        self.stopped = 0
        self.closed = False
        self._pieces = pieces
        self._waits = waits
        self._lock = threading.Lock()

    def complete(
        self, request: dict[str, Json], on_delta: Callable[[str], None] | None, cancelled: threading.Event
    ) -> LocalCompletion:
        with self._lock:
            self.bodies.append(request)
            self.running += 1
            self.running_max = max(self.running, self.running_max)
        self.entered.set()
        try:
            for piece in self._pieces if on_delta else ():
                on_delta(piece)  # type: ignore[misc]
            if self._waits and not self.let_go.is_set():
                assert cancelled.wait(5), "nobody stopped the engine"
                self.stopped += 1
                raise CancelledError("stopped")
        finally:
            with self._lock:
                self.running -= 1
        return LocalCompletion(
            text="".join(self._pieces),
            finish_reason="stop",
            input_tokens=9,
            cached_tokens=4,
            output_tokens=3,
            prompt_ms=1,
            generation_ms=1,
        )

    def close(self) -> None:
        assert self.running == 0, "closed under a running call"
        self.closed = True


def make(engine: FakeEngine, parallel: int = 2) -> LocalAdapter:
    models = [ModelInfo(name="tiny", family="smollm", output_tokens_max=64)]
    return LocalAdapter(ACCOUNT, models, engine, parallel=parallel, path=Path("/nowhere/tiny.gguf"))


def ask(**fields: object) -> ChatRequest:
    return ChatRequest(model="tiny", messages=(Message(role=Role.USER, text="Plan."),), **fields)  # type: ignore[arg-type]


async def test_answer_keeps_reasoning_apart_and_counts_tokens() -> None:
    """Usage is the engine's own; think tags are not part of the answer."""
    adapter = make(FakeEngine("<think>why</think>", "because"))

    result = await adapter.chat_completion(ask(), timeout_s=5)

    assert (result.text, result.reasoning, result.finish_reason) == ("because", "why", FinishReason.STOP)
    assert (result.usage.input_tokens, result.usage.cache_read_tokens, result.usage.output_tokens) == (9, 4, 3)
    await adapter.aclose()


async def test_stream_says_what_the_whole_answer_says() -> None:
    """Pieces come in order, the last delta carries the end and the usage."""
    adapter = make(FakeEngine("<thi", "nk>why</think>be", "cause"))

    deltas = [d async for d in adapter.chat_completion_stream(ask(), timeout_s=5, idle_timeout_s=5)]

    assert "".join(delta.text for delta in deltas) == "because"
    assert "".join(delta.reasoning for delta in deltas) == "why"
    assert deltas[-1].finish_reason is FinishReason.STOP
    assert deltas[-1].usage is not None
    await adapter.aclose()


async def test_schema_is_enforced_and_its_gist_is_said_at_the_end_of_the_prompt() -> None:
    """A grammar is invisible to the model; the shared prefix of the prompt stays as it is."""
    engine = FakeEngine("{}")
    adapter = make(engine)

    await adapter.chat_completion(ask(output=OutputSchema(name="plan", schema=SCHEMA)), timeout_s=5)

    (body,) = engine.bodies
    assert body["response_format"] == {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    gist = 'Answer in JSON: {"verdict": met|not_met, "tasks": [{"id", "title"}]}'
    assert body["messages"] == [{"role": "user", "content": f"Plan.\n{gist}"}]
    assert (body["max_tokens"], body["temperature"]) == (64, 0.2)
    assert "repeat_penalty" not in body
    await adapter.aclose()


async def test_worked_example_in_the_conversation_replaces_the_gist() -> None:
    """An example shows more, and prompt tokens are dear here."""
    engine = FakeEngine("{}")
    adapter = make(engine)
    example = (Message(role=Role.USER, text="x"), Message(role=Role.ASSISTANT, text='{"verdict":"met"}'))
    request = ChatRequest(
        model="tiny",
        messages=(*example, Message(role=Role.USER, text="Plan.")),
        output=OutputSchema(name="plan", schema=SCHEMA),
    )

    await adapter.chat_completion(request, timeout_s=5)

    assert [message["content"] for message in engine.bodies[0]["messages"]][-1] == "Plan."  # type: ignore[index,union-attr,call-overload]
    await adapter.aclose()


async def test_request_overrides_the_default_sampling() -> None:
    """Defaults are for requests that do not say."""
    engine = FakeEngine("x")
    adapter = make(engine)

    await adapter.chat_completion(ask(temperature=0.9, seed=3, extra=(("repeat_penalty", "1.3"),)), timeout_s=5)

    assert (engine.bodies[0]["temperature"], engine.bodies[0]["seed"]) == (0.9, 3)
    assert engine.bodies[0]["repeat_penalty"] == 1.3
    await adapter.aclose()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": (ToolSpec(name="t"),)}, "tools"),
        ({"choices": 2}, "n"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"messages": ()}, "messages"),
        ({"messages": (Message(role=Role.USER, images=(ImagePart(url="https://x"),)),)}, "messages[0].images"),
        ({"messages": (Message(role=Role.TOOL, tool_call_id="c"),)}, "messages[0].role"),
        ({"extra": (("store", "true"),)}, "store"),
        ({"extra": (("n_probs", "3"),)}, "n_probs"),
    ],
)
async def test_what_the_model_cannot_do_is_refused_by_name(fields: dict[str, object], param: str) -> None:
    """Nothing is dropped in silence; an empty conversation would be answered with nonsense."""
    engine = FakeEngine("x")
    adapter = make(engine)
    request = ChatRequest(**{"model": "tiny", "messages": ask().messages, **fields})  # type: ignore[arg-type]

    with pytest.raises(RequestError) as caught:
        await adapter.chat_completion(request, timeout_s=5)

    assert caught.value.param == param
    assert engine.bodies == []
    await adapter.aclose()


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelling_the_caller_stops_the_engine_and_frees_the_slot(stream: bool) -> None:
    """A withdrawn call must not keep a core busy."""
    engine = FakeEngine(waits=True)
    adapter = make(engine, parallel=1)

    async def collect() -> None:
        async for _delta in adapter.chat_completion_stream(ask(), timeout_s=5, idle_timeout_s=5):
            pass

    task = asyncio.create_task(collect() if stream else _whole(adapter))
    await asyncio.to_thread(engine.entered.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    engine.let_go.set()
    engine._pieces = ("x",)

    assert (await adapter.chat_completion(ask(), timeout_s=5)).text == "x"
    assert engine.stopped == 1
    await adapter.aclose()


async def test_no_more_calls_run_at_once_than_the_engine_has_slots() -> None:
    """Further ones wait where they can be withdrawn; their time runs."""
    engine = FakeEngine(waits=True)
    adapter = make(engine, parallel=2)

    results = await asyncio.gather(
        *(adapter.chat_completion(ask(), timeout_s=0.1) for _ in range(5)), return_exceptions=True
    )

    kinds = {result.kind for result in results if isinstance(result, UpstreamError)}
    assert (len(results), kinds) == (5, {UpstreamKind.TIMEOUT})
    assert engine.running_max == 2
    await adapter.aclose()
    assert engine.closed


async def test_blank_answer_is_garbage() -> None:
    """As everywhere."""
    adapter = make(FakeEngine("  "))

    with pytest.raises(UpstreamError) as caught:
        await adapter.chat_completion(ask(), timeout_s=5)

    assert caught.value.kind is UpstreamKind.GARBAGE
    await adapter.aclose()


async def test_health_check_names_a_missing_file() -> None:
    """Without loading anything."""
    adapter = make(FakeEngine())

    report = await adapter.health_check()

    assert not report.ok
    assert "/nowhere/tiny.gguf" in report.message
    await adapter.aclose()


def test_gist_of_a_large_schema_is_its_field_names() -> None:
    """The gist must stay shorter than what it explains."""
    wide: dict[str, Json] = {name: SCHEMA for name in "abcdefghij"}

    assert schema_gist({"type": "object", "properties": wide}) == ('{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"}')


async def _whole(adapter: LocalAdapter) -> None:
    await adapter.chat_completion(ask(), timeout_s=5)
