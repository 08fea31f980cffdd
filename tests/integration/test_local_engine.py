"""The embedded model through ``LocalEngine``: the real weights, the real llama.cpp."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.domain.chat import Json
from app.domain.errors import CancelledError, ConfigurationError, UpstreamError, UpstreamKind
from app.providers.local_engine import LocalCompletion, LocalEngine, find_embedded_model

CONTEXT_TOKENS = 512


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    engine = LocalEngine(find_embedded_model(), context_tokens=CONTEXT_TOKENS, parallel=2, threads=1)
    yield engine
    engine.close()


def ask(text: str, **fields: Json) -> dict[str, Json]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 24, "temperature": 0, "seed": 1, **fields}


def complete(engine: LocalEngine, request: dict[str, Json]) -> LocalCompletion:
    return engine.complete(request, None, threading.Event())


def test_complete_obeys_the_json_schema(engine: LocalEngine) -> None:
    """Structured output is enforced by grammar, not hoped for: order, const, enum and counts."""
    task: dict[str, Json] = {"type": "object", "required": ["id", "kind"], "additionalProperties": False}
    items: list[Json] = [
        {**task, "properties": {"id": {"const": f"t{n}"}, "kind": {"enum": ["write", "check"]}}} for n in (1, 2)
    ]
    schema: Json = {"type": "array", "prefixItems": items, "minItems": 2, "maxItems": 2}

    done = complete(
        engine,
        ask(
            "Plan a poem.",
            max_tokens=120,
            response_format={"type": "json_schema", "json_schema": {"name": "plan", "schema": schema}},
        ),
    )

    assert done.finish_reason == "stop"
    parsed = json.loads(done.text)
    assert [entry["id"] for entry in parsed] == ["t1", "t2"]
    assert {entry["kind"] for entry in parsed} <= {"write", "check"}


def test_complete_streams_the_same_text_and_counts_tokens(engine: LocalEngine) -> None:
    """What was streamed is what is returned, and usage is the engine's count."""
    pieces: list[str] = []

    done = engine.complete(ask("Write a story about a dog.", max_tokens=20), pieces.append, threading.Event())

    assert len(pieces) > 5
    assert "".join(pieces) == done.text
    assert done.output_tokens == 20
    assert done.finish_reason == "length"
    assert 5 < done.input_tokens < 60


def test_complete_repeats_itself_at_temperature_zero(engine: LocalEngine) -> None:
    """Same request, same answer: runs with the embedded model can be compared."""
    request = ask("Name three colours.")

    first, second = complete(engine, request), complete(engine, request)

    assert first.text == second.text
    assert second.cached_tokens > 0


def test_complete_serves_two_callers_at_once(engine: LocalEngine) -> None:
    """Two tasks of one run generate side by side: each has begun before the other is done."""
    started = [threading.Event(), threading.Event()]
    met = [False, False]

    def run(index: int) -> None:
        def on_delta(_: str) -> None:
            if not started[index].is_set():
                started[index].set()
                met[index] = started[1 - index].wait(10)

        engine.complete(ask(f"Count up from {index}.", max_tokens=60), on_delta, threading.Event())

    threads = [threading.Thread(target=run, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert met == [True, True]


def test_complete_leaves_other_threads_running(engine: LocalEngine) -> None:
    """Generation does not hold the interpreter's lock, so the actor's event loop keeps ticking."""
    done = threading.Event()

    def run() -> None:
        complete(engine, ask("word " * 300 + "Tell a story.", max_tokens=40))
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    gaps = []
    while not done.is_set():
        before = time.monotonic()
        time.sleep(0.005)
        gaps.append(time.monotonic() - before)
    thread.join()

    assert len(gaps) > 20
    assert sorted(gaps)[len(gaps) * 9 // 10] < 0.1


def test_complete_stops_soon_when_cancelled(engine: LocalEngine) -> None:
    """A withdrawn call frees its slot; the engine serves the next one."""
    cancelled = threading.Event()
    pieces: list[str] = []

    def on_delta(piece: str) -> None:
        pieces.append(piece)
        cancelled.set()

    with pytest.raises(CancelledError):
        engine.complete(ask("Write a very long story.", max_tokens=800), on_delta, cancelled)

    assert len(pieces) == 1
    assert complete(engine, ask("Say hello.")).text


def test_complete_raises_what_the_listener_raises(engine: LocalEngine) -> None:
    """xllamacpp swallows callback exceptions; ours must not vanish."""

    def on_delta(_: str) -> None:
        raise KeyError("listener")

    with pytest.raises(KeyError, match="listener"):
        engine.complete(ask("Write a story."), on_delta, threading.Event())


def test_complete_refuses_a_prompt_beyond_the_context(engine: LocalEngine) -> None:
    """Too long names both sizes and is a kind that another model may take; the context is not divided by callers."""
    with pytest.raises(UpstreamError, match=str(CONTEXT_TOKENS)) as caught:
        complete(engine, ask("word " * 2000))

    assert caught.value.kind is UpstreamKind.TOO_LONG
    assert complete(engine, ask("word " * (CONTEXT_TOKENS - 100), max_tokens=1)).input_tokens > CONTEXT_TOKENS // 2


@pytest.mark.parametrize("fields", [{"messages": "x"}, {"temperature": "hot"}, {"response_format": {"type": "what"}}])
def test_complete_refuses_wrong_fields(engine: LocalEngine, fields: dict[str, Json]) -> None:
    """Both ways in which the library refuses (exception, error event) come out as one kind."""
    with pytest.raises(UpstreamError) as caught:
        complete(engine, {**ask("Hello"), **fields})

    assert caught.value.kind is UpstreamKind.INVALID_REQUEST


def test_engine_writes_nothing_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    """The terminal belongs to the run's live tree: loading, generating and closing are silent."""
    engine = LocalEngine(find_embedded_model(), context_tokens=512, parallel=1, threads=1)

    complete(engine, ask("Hello", max_tokens=3))
    engine.close()

    assert capfd.readouterr() == ("", "")


def test_engine_gives_its_http_port_to_nobody(engine: LocalEngine) -> None:
    """llama.cpp opens a local port; without our unknown key it must answer no completion."""
    complete(engine, ask("Hello", max_tokens=1))
    server: Any = engine._server

    reply = httpx.post(f"{server.listening_address}/v1/chat/completions", json=ask("Hello"), timeout=10)

    assert reply.status_code == 401


def test_engine_names_the_remedy_when_the_file_is_missing(tmp_path: Path) -> None:
    """A missing or foreign file is the operator's to fix, with words on how."""
    foreign = tmp_path / "foreign.gguf"
    foreign.write_text("no model")

    for path in (tmp_path / "none.gguf", foreign):
        engine = LocalEngine(path, context_tokens=512, parallel=1, threads=1)
        with pytest.raises(ConfigurationError) as caught:
            complete(engine, ask("Hello"))
        assert "GGUF" in str(caught.value.remedy)


def test_closed_engine_refuses_calls() -> None:
    """After close nothing is loaded again behind the owner's back."""
    engine = LocalEngine(find_embedded_model(), context_tokens=512, parallel=1, threads=1)
    engine.close()

    with pytest.raises(UpstreamError, match="closed"):
        complete(engine, ask("Hello"))
