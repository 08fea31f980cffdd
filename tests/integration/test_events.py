"""Events of a real cluster: told by its processes, kept by one actor, there after its death; they quote nobody."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import orjson
import pytest
import ray

from actors import bootstrap
from actors.event_handles import OutboxHandle, SpoolHandle, emitter_of
from app.domain.errors import GatewayError
from app.domain.ports import EventSource
from app.domain.trace_context import NO_SPAN, TraceContext, use
from tests.fakes.scripted import ENGLISH
from tests.integration.conftest import Stage

pytestmark = pytest.mark.ray

Document = dict[str, Any]


async def documents(source: EventSource) -> list[Document]:
    """Return everything that waits there."""
    found: list[Document] = []
    seq = 0
    while events := await source.pending(seq, docs_max=500, bytes_max=10**7):
        seq = events[-1].seq
        found.extend(orjson.loads(event.body) for event in events)
    return found


async def until(source: EventSource, holds: Callable[[list[Document]], bool]) -> list[Document]:
    """Wait until what waits there satisfies ``holds``."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(GatewayError):
                found = await documents(source)
                if holds(found):
                    return found
            await asyncio.sleep(0.2)


def actions(found: list[Document]) -> set[str]:
    """Return the types of events."""
    return {document["event.action"] for document in found}


async def test_run_is_told_from_its_acceptance_to_its_bill(stage: Stage) -> None:
    """Every provider call is one posting, and their sum is the document's cost; no word of the story is told."""
    document = await stage.play(ENGLISH.request)
    found = await documents(OutboxHandle(stage.namespace))
    calls = [each for each in found if each["event.action"] == "call.finished"]

    assert {
        *("run.accepted", "plan.ready", "stage.finished", "task.started", "task.judged", "task.finished"),
        *("run.finished", "call.finished"),
    } <= actions(found)
    assert {each["tutti.run.id"] for each in calls} == {document["run_id"]}
    assert sum(each["tutti.cost.nano_usd"] for each in calls) == round(float(document["usage"]["cost_usd"]) * 1e9)
    assert sum(each["gen_ai.usage.input_tokens"] for each in calls) == document["usage"]["input_tokens"]
    assert len({each["event.id"] for each in found}) == len(found)
    told = orjson.dumps(found).decode()
    for words in (ENGLISH.request, ENGLISH.answer, *(step.result for step in ENGLISH.steps)):
        assert words[:40] not in told


async def test_processes_tell_the_spool_what_they_do(stage: Stage) -> None:
    """Configuration and actors, each with its process."""
    wanted = {"configuration.changed", "actor.started", "account.load"}
    found = await until(SpoolHandle(stage.namespace), lambda seen: wanted <= actions(seen))
    (changed,) = [each for each in found if each["event.action"] == "configuration.changed"]

    assert changed["tutti.configuration.version"] == 1
    assert changed["service.node.name"].startswith("directory-")
    assert {each["tutti.account.id"] for each in found if each["event.action"] == "account.load"} == {
        view.account for view in await stage.desk.accounts()
    }


def saying(words: str) -> Callable[[object], None]:
    """Return what has a process write a line to its log, in a trace."""

    def say(_actor: object) -> None:
        context = TraceContext(trace_id="5c" * 16, span_id=NO_SPAN)
        with use(context):
            logging.getLogger("actors.anything").warning(words)

    return say


async def test_log_of_every_actor_is_told_with_its_trace(stage: Stage) -> None:
    """The keeper's own lines as well, once each: it does not go on about what it writes."""
    hosts = [view.account for view in await stage.desk.accounts()]
    names = [bootstrap.STORE, bootstrap.DIRECTORY, bootstrap.COORDINATOR, bootstrap.EVENTS, f"account-{hosts[0]}"]
    for name in names:
        actor = ray.get_actor(name, stage.namespace)
        await actor.__ray_call__.remote(saying(f"words of {name}"))

    def lines(seen: list[Document]) -> dict[str, Document]:
        said = [each for each in seen if each["event.action"] == "log.line" and "words of" in each["message"]]
        found = {each["message"].removeprefix("words of "): each for each in said}
        assert len(found) == len(said), "a line was told twice"
        return found

    found = lines(await until(SpoolHandle(stage.namespace), lambda seen: len(lines(seen)) == len(names)))

    assert {name: each["service.node.name"].rpartition("-")[0] for name, each in found.items()} == dict(
        zip(names, names, strict=True)
    )
    assert {each["trace.id"] for each in found.values()} == {"5c" * 16}
    assert {each["log.level"] for each in found.values()} == {"warning"}


async def test_events_survive_the_death_of_their_keeper(stage: Stage) -> None:
    """What was acknowledged is there, what was not is said again under its id: nothing is lost, nothing twice."""
    emitter = emitter_of("test", stage.namespace)
    source = SpoolHandle(stage.namespace)
    running = asyncio.create_task(emitter.run())
    for number in range(300):
        emitter.emit("limit.hit", request_id=f"q-{number}")
        if number == 100:
            await emitter.record("limit.hit", request_id="recorded")
            ray.kill(ray.get_actor(bootstrap.EVENTS, stage.namespace), no_restart=False)
        if number % 20 == 0:
            await asyncio.sleep(0.05)
    found = await until(source, lambda seen: sum(each["event.action"] == "limit.hit" for each in seen) >= 301)
    running.cancel()
    names = [each["tutti.request.id"] for each in found if each["event.action"] == "limit.hit"]

    assert sorted(names) == sorted([*(f"q-{number}" for number in range(300)), "recorded"])
    assert not emitter.dropped
