"""A call that its provider makes without us is bought once, fetched by its name, and stopped where nobody wants it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from app.domain.accounts import EndpointClass
from app.domain.chat import ChatRequest, FinishReason, Json, Message, OutputSchema, Role, ToolCall, ToolSpec
from app.domain.errors import ConflictError, NoAnswerError, RequestError, UpstreamError, UpstreamKind
from app.providers.background import BackgroundCall
from app.providers.http_background import BackgroundHttpAdapter
from tests.fakes.endpoints import GONE, Endpoint, bills
from tests.fakes.simulated import Simulator

ASKED = ChatRequest(
    model="m", messages=(Message(role=Role.USER, text="hello"),), output_tokens_max=400, call_key="run/t/task/1"
)
SLOW, BROKEN = "take your time", "break down"
ADDRESS: dict[str, Json] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
AT = Endpoint(
    adapter_class=BackgroundHttpAdapter,
    endpoint=EndpointClass.REATTACH,
    simulated={"profile": {"latency": {"mean_s": 0.02}}},
    faults=[
        {"kind": "slow_first", "seconds": 30.0, "match": {"contains": SLOW}},
        {"kind": "bill_then_500", "match": {"contains": BROKEN}},
    ],
    account={"timeout_s": 30.0},
)
process, simulator, adapter = AT.fixtures()


def saying(text: str) -> ChatRequest:
    return replace(ASKED, messages=(Message(role=Role.USER, text=text),))


async def unheard(_name: str) -> None:
    """Write nothing down."""


async def test_an_answer_is_fetched_by_name_as_often_as_wanted_and_billed_once(
    adapter: BackgroundHttpAdapter, simulator: Simulator
) -> None:
    """Also by an adapter of a later life, which knows nothing but the name."""
    name = await adapter.begin(ASKED, note=unheard, timeout_s=10)
    first = await adapter.attend(ASKED, name, timeout_s=10)
    later = AT.adapter(simulator)
    again = await later.attend(ASKED, name, timeout_s=10)
    await later.aclose()

    assert first is not None
    assert (first.provider_id, first.finish_reason) == (name, FinishReason.STOP)
    assert again == first
    assert first.text
    total = simulator.stats()["total"]
    assert (first.usage.input_tokens, first.usage.output_tokens, first.usage.source) == (
        total["billed_input_tokens"],
        total["billed_output_tokens"],
        "provider",
    )
    assert bills(simulator) == 1


async def test_what_is_asked_in_the_background_means_what_it_means_else(adapter: BackgroundHttpAdapter) -> None:
    """Schemas, tools, a tool's result and the ceiling of the answer are translated both ways."""
    schema = replace(ASKED, output=OutputSchema(name="address", schema=ADDRESS))
    tool = ToolSpec(name="look_up", parameters=ADDRESS)
    forced = replace(ASKED, tools=(tool,), tool_choice="look_up")
    called = ToolCall(id="c1", name="look_up", arguments="{}")
    replied = replace(
        forced,
        tool_choice=None,
        messages=(
            *ASKED.messages,
            Message(role=Role.ASSISTANT, tool_calls=(called,)),
            Message(role=Role.TOOL, text="Paris", tool_call_id="c1"),
        ),
    )

    async def answer(request: ChatRequest) -> tuple[str, str, FinishReason]:
        name = await adapter.begin(request, note=unheard, timeout_s=10)
        result = await adapter.attend(request, name, timeout_s=10)
        assert result is not None
        return result.text, result.tool_calls[0].name if result.tool_calls else "", result.finish_reason

    text, _tool, _finish = await answer(schema)
    assert '"city"' in text
    assert (await answer(forced))[1:] == ("look_up", FinishReason.TOOL_CALLS)
    assert (await answer(replied))[2] is FinishReason.STOP
    assert (await answer(replace(ASKED, output_tokens_max=1)))[2] is FinishReason.LENGTH


async def test_a_field_without_a_word_is_refused_before_anything_is_bought(
    adapter: BackgroundHttpAdapter, simulator: Simulator
) -> None:
    """Responses know no stop sequences; dropping them in silence would change the answer."""
    with pytest.raises(RequestError) as caught:
        await adapter.begin(replace(ASKED, stop=("END",)), note=unheard, timeout_s=10)

    assert caught.value.param == "stop"
    assert simulator.stats()["total"]["requests"] == 0


async def test_a_dead_key_buys_nothing(simulator: Simulator) -> None:
    """A refusal at the beginning is a refusal, whatever goes on in the background."""
    adapter = AT.adapter(simulator, GONE)
    with pytest.raises(UpstreamError) as caught:
        await adapter.begin(ASKED, note=unheard, timeout_s=10)
    await adapter.aclose()

    assert (caught.value.kind, caught.value.billed) == (UpstreamKind.DEAD_KEY, False)


async def test_a_call_that_failed_or_is_forgotten_has_no_answer(
    adapter: BackgroundHttpAdapter, simulator: Simulator
) -> None:
    """Asking on would wait for ever; whether it was billed nobody says."""
    failed = await adapter.begin(saying(BROKEN), note=unheard, timeout_s=10)
    with pytest.raises(NoAnswerError, match="without an answer") as caught:
        await adapter.attend(ASKED, failed, timeout_s=10)
    forgotten = await adapter.begin(ASKED, note=unheard, timeout_s=10)
    simulator.reset()
    with pytest.raises(NoAnswerError, match="knows nothing") as other:
        await adapter.attend(ASKED, forgotten, timeout_s=10)

    assert (caught.value.billed, other.value.billed) == (None, None)


async def test_the_name_is_written_down_before_the_answer_is_waited_for(
    adapter: BackgroundHttpAdapter, simulator: Simulator
) -> None:
    """From then on a crash costs nothing: whoever comes after fetches the answer."""
    noted: list[tuple[str, int]] = []

    async def note(name: str) -> None:
        noted.append((name, bills(simulator)))

    result = await BackgroundCall(adapter, ASKED, note=note, is_wanted=lambda: False).answer(10)
    (written,) = noted
    resumed = await BackgroundCall(
        adapter, replace(ASKED, begun_as=written[0]), note=note, is_wanted=lambda: False
    ).answer(10)

    assert resumed == result
    assert len(noted) == 1
    assert bills(simulator) == 1


async def test_a_call_taken_for_lost_while_it_began_is_stopped(
    adapter: BackgroundHttpAdapter, simulator: Simulator
) -> None:
    """Its run's new conductor has decided on it: nobody would fetch its answer."""

    async def refuse(_name: str) -> None:
        raise ConflictError("it was taken for lost")

    with pytest.raises(ConflictError):
        await BackgroundCall(adapter, saying(SLOW), note=refuse, is_wanted=lambda: False).answer(10)

    assert simulator.stats()["total"]["cancelled_by_client"] == 1


@pytest.mark.parametrize("wanted", [False, True])
async def test_a_call_that_is_cut_short_is_stopped_unless_a_later_life_fetches_it(
    adapter: BackgroundHttpAdapter, simulator: Simulator, wanted: bool
) -> None:
    """A cancelled run must not be billed on; an actor that is drained must not throw away what is nearly there."""
    noted = asyncio.Event()

    async def note(_name: str) -> None:
        noted.set()

    call = BackgroundCall(adapter, saying(SLOW), note=note, is_wanted=lambda: wanted)
    task = asyncio.create_task(call.answer(20))
    await noted.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    total = simulator.stats()["total"]
    assert (total["cancelled_by_client"], total["in_flight"]) == ((0, 1) if wanted else (1, 0))


async def test_a_call_that_comes_too_late_is_stopped(adapter: BackgroundHttpAdapter, simulator: Simulator) -> None:
    """Nobody knows what it was billed until then."""
    with pytest.raises(UpstreamError) as caught:
        await BackgroundCall(adapter, saying(SLOW), note=unheard, is_wanted=lambda: False).answer(1.0)

    assert (caught.value.kind, caught.value.billed) == (UpstreamKind.TIMEOUT, None)
    assert simulator.stats()["total"]["cancelled_by_client"] == 1
