"""Calls are gathered into a batch, each bought once and answered apart; a batch is found again by our name for it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from app.domain.accounts import EndpointClass
from app.domain.chat import ChatRequest, Message, Role
from app.domain.errors import ConflictError, NoAnswerError, UpstreamError, UpstreamKind
from app.providers.background import BackgroundCall
from app.providers.http_batches import BatchHttpAdapter
from tests.fakes.endpoints import GONE, Endpoint, bills
from tests.fakes.simulated import Simulator

LAG_S = 0.6
REFUSED, SLOW = "too much of this", "take your time"
AT = Endpoint(
    adapter_class=BatchHttpAdapter,
    endpoint=EndpointClass.BATCH,
    simulated={
        "profile": {"latency": {"mean_s": 0}},
        "default_reply": "echo",
        "store_lag_s": LAG_S / 2,
        "batch_delay_s": 0.2,
    },
    faults=[
        {"kind": "http_400", "match": {"contains": REFUSED}},
        {"kind": "slow_first", "seconds": 1.5, "match": {"contains": SLOW}},
    ],
    account={
        "models": (("m", "m"), ("other", "other")),
        "lookup_lag_s": LAG_S,
        "batch_window_s": 0.3,
        "timeout_s": 30.0,
    },
)
process, simulator, adapter = AT.fixtures()


def asking(text: str, number: int = 1, model: str = "m") -> ChatRequest:
    message = Message(role=Role.USER, text=text)
    return ChatRequest(model=model, messages=(message,), output_tokens_max=100, call_key=f"run/t{number}/task/1")


class Journal:
    """Where names are written down."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.noted: list[str] = []
        self.lost: set[str] = set()

    def call(self, adapter: BatchHttpAdapter, request: ChatRequest, *, wanted: bool = False) -> BackgroundCall:
        async def note(name: str) -> None:
            if request.call_key in self.lost:
                raise ConflictError("it was taken for lost")
            self.names[request.call_key or ""] = name
            self.noted.append(name)

        return BackgroundCall(adapter, request, note=note, is_wanted=lambda: wanted)

    def again(self, request: ChatRequest) -> ChatRequest:
        """Return the request as a later life makes it."""
        return replace(request, begun_as=self.names[request.call_key or ""], lost_at_s=time.time())


async def test_calls_of_a_window_share_a_batch_and_have_answers_of_their_own(
    adapter: BatchHttpAdapter, simulator: Simulator
) -> None:
    """One batch a model, as the providers want it; every line is billed once, with its own usage."""
    journal, asked = Journal(), [asking(f"say {number}", number) for number in range(5)]
    asked.append(asking("say other", 9, model="other"))
    results = await asyncio.gather(*(journal.call(adapter, request).answer(20) for request in asked))

    assert [result.text for result in results] == [request.messages[0].text for request in asked]
    assert len({name.partition("/")[0] for name in journal.names.values()}) == 2
    total = simulator.stats()["total"]
    assert (total["billed_requests"], total["billed_input_tokens"], total["billed_output_tokens"]) == (
        6,
        sum(result.usage.input_tokens for result in results),
        sum(result.usage.output_tokens for result in results),
    )


async def test_a_later_life_finds_the_batch_by_our_name(adapter: BatchHttpAdapter, simulator: Simulator) -> None:
    """Although it is not listed at first, and the process that made it is gone with its number."""
    journal, request = Journal(), asking("hello")
    first = await journal.call(adapter, request).answer(20)
    later = AT.adapter(simulator)
    again = await journal.call(later, journal.again(request)).answer(20)
    await later.aclose()

    assert again == first
    assert bills(simulator) == 1


async def test_a_batch_that_never_left_is_made_up_anew_once_the_lag_is_over(
    adapter: BatchHttpAdapter, simulator: Simulator
) -> None:
    """Its name was on disk before it; that it is not listed after the lag says that nothing was bought."""
    journal, request = Journal(), asking("hello")
    journal.names["run/t1/task/1"] = f"{int(time.time())}-never/0123"
    lost = journal.again(request)
    answer = await journal.call(adapter, lost).answer(20)

    assert answer.text == "hello"
    assert time.time() - (lost.lost_at_s or 0) >= LAG_S
    assert bills(simulator) == 1
    assert not journal.names["run/t1/task/1"].endswith("-never/0123")


async def test_a_call_begun_twice_in_one_process_is_one_line(adapter: BatchHttpAdapter, simulator: Simulator) -> None:
    """Its run's conductor died and came back before it had heard of the name, while this process lived on. The name is
    noted for both: who came back has written the row without it."""
    journal, request = Journal(), asking("hello")
    calls = [journal.call(adapter, request), journal.call(adapter, request)]
    first, second = await asyncio.gather(*(call.answer(20) for call in calls))

    assert first == second
    assert journal.noted == [journal.names["run/t1/task/1"]] * 2
    assert bills(simulator) == 1


async def test_a_line_whose_name_could_not_be_written_down_is_left_out(
    adapter: BatchHttpAdapter, simulator: Simulator
) -> None:
    """Nobody would fetch its answer; the others go."""
    journal = Journal()
    journal.lost.add("run/t1/task/1")
    lost, kept = await asyncio.gather(
        journal.call(adapter, asking("one", 1)).answer(20),
        journal.call(adapter, asking("two", 2)).answer(20),
        return_exceptions=True,
    )

    assert isinstance(lost, ConflictError)
    assert not isinstance(kept, BaseException)
    assert (kept.text, bills(simulator)) == ("two", 1)


async def test_a_line_that_the_provider_refuses_fails_alone(adapter: BatchHttpAdapter, simulator: Simulator) -> None:
    """As the same request would have failed by itself; it is not billed."""
    journal = Journal()
    refused, kept = await asyncio.gather(
        journal.call(adapter, asking(REFUSED, 1)).answer(20),
        journal.call(adapter, asking("two", 2)).answer(20),
        return_exceptions=True,
    )

    assert isinstance(refused, UpstreamError)
    assert (refused.kind, refused.billed) == (UpstreamKind.INVALID_REQUEST, False)
    assert not isinstance(kept, BaseException)
    assert bills(simulator) == 1


async def test_a_batch_that_is_refused_buys_nothing(simulator: Simulator) -> None:
    """All its calls learn so, and may go elsewhere."""
    adapter, journal = AT.adapter(simulator, GONE), Journal()
    found = await asyncio.gather(
        *(journal.call(adapter, asking("hello", number)).answer(20) for number in range(2)), return_exceptions=True
    )
    await adapter.aclose()

    assert [(type(each), getattr(each, "billed", None)) for each in found] == [(UpstreamError, False)] * 2
    assert bills(simulator) == 0


@pytest.mark.parametrize("wanted", [False, True])
async def test_a_batch_is_stopped_when_nobody_wants_its_answers(
    adapter: BatchHttpAdapter, simulator: Simulator, wanted: bool
) -> None:
    """One that a later life fetches goes on; one line's departure takes nothing from the others."""
    journal, requests = Journal(), [asking(SLOW, 1), asking(SLOW, 2)]
    tasks = [asyncio.create_task(journal.call(adapter, request, wanted=wanted).answer(20)) for request in requests]
    await asyncio.sleep(0.8)
    tasks[0].cancel()
    await asyncio.sleep(0.2)
    assert not tasks[1].done()
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    later = AT.adapter(simulator)
    found = await asyncio.gather(
        *(journal.call(later, journal.again(request)).answer(20) for request in requests), return_exceptions=True
    )
    await later.aclose()

    assert (simulator.stats()["total"]["billed_output_tokens"] > 0) is wanted
    assert [isinstance(each, NoAnswerError) for each in found] == [not wanted] * 2
