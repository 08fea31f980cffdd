"""A call that was lost is asked for again where its endpoint allows it: under its key, or among what is stored."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
import yaml

from app.domain.accounts import AccountSpec, EndpointClass, ModelInfo, Provider
from app.domain.chat import ChatRequest, Message, Role
from app.domain.errors import UpstreamError
from app.providers.base import ProviderAdapter
from app.providers.registry import create
from tests.fakes.simulated import Simulator, running_simulator

LAG_S = 1.5
ASKED = ChatRequest(
    model="m", messages=(Message(role=Role.USER, text="hello"),), output_tokens_max=40, call_key="run/t/task/1"
)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    file = tmp_path_factory.mktemp("endpoints") / "provider.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "port": 0,
                "profile": {"latency": {"mean_s": 0}},
                "keys": [{"key": "sk-good"}, {"key": "sk-gone", "state": "revoked"}],
                "default_reply": "lorem",
                "idempotency": True,
                "store_lag_s": LAG_S / 2,
            }
        ),
        encoding="utf-8",
    )
    with running_simulator(file) as running:
        yield running


@pytest.fixture
def simulator(process: Simulator) -> Simulator:
    process.reset()
    process.control({"replies": []})
    return process


@pytest.fixture
async def adapters(simulator: Simulator) -> AsyncIterator[list[ProviderAdapter]]:
    made: list[ProviderAdapter] = []
    yield made
    for adapter in made:
        await adapter.aclose()


def an_adapter(
    adapters: list[ProviderAdapter], simulator: Simulator, endpoint: EndpointClass, key: str = "sk-good"
) -> ProviderAdapter:
    account = AccountSpec(
        name="a",
        provider=Provider.OPENAI,
        api_key=key,
        base_url=f"{simulator.url}/v1",
        models=(("m", "m"),),
        endpoint=endpoint,
        lookup_lag_s=LAG_S,
    )
    adapters.append(create(account, [ModelInfo(name="m", family="f")]))
    return adapters[-1]


def bills(simulator: Simulator) -> int:
    return int(simulator.stats()["total"]["billed_requests"])


async def test_the_same_key_is_the_same_answer_and_one_bill(
    adapters: list[ProviderAdapter], simulator: Simulator
) -> None:
    """Streamed or whole, the first sending is the only one that is paid; another key is another call."""
    adapter = an_adapter(adapters, simulator, EndpointClass.IDEMPOTENT)
    first = await adapter.chat_completion(ASKED, timeout_s=10)
    again = await adapter.chat_completion(ASKED, timeout_s=10)
    other = await adapter.chat_completion(replace(ASKED, call_key="run/t/task/2"), timeout_s=10)

    assert (again.provider_id, again.text, again.usage) == (first.provider_id, first.text, first.usage)
    assert other.provider_id != first.provider_id
    assert bills(simulator) == 2
    assert simulator.stats()["total"]["repeated"] == 1


async def test_another_model_or_a_stream_is_another_request_under_the_same_name(
    adapters: list[ProviderAdapter], simulator: Simulator
) -> None:
    """A fallback on the same account must not be refused as a wrong repetition; a stream repeats a stream."""
    adapter = an_adapter(adapters, simulator, EndpointClass.IDEMPOTENT)
    streams: list[str] = []
    await adapter.chat_completion(ASKED, timeout_s=10)
    await adapter.chat_completion(replace(ASKED, model="other"), timeout_s=10)
    for _ in range(2):
        deltas = adapter.chat_completion_stream(ASKED, timeout_s=10, idle_timeout_s=10)
        streams.append("".join([delta.text or "" async for delta in deltas]))

    assert streams[0] == streams[1] != ""
    assert (bills(simulator), simulator.stats()["total"]["repeated"]) == (3, 1)


async def test_the_same_key_with_another_question_is_refused(
    adapters: list[ProviderAdapter], simulator: Simulator
) -> None:
    """An answer to something else must never be taken for the lost one."""
    adapter = an_adapter(adapters, simulator, EndpointClass.IDEMPOTENT)
    await adapter.chat_completion(ASKED, timeout_s=10)
    with pytest.raises(UpstreamError):
        await adapter.chat_completion(replace(ASKED, output_tokens_max=41), timeout_s=10)

    assert bills(simulator) == 1


async def test_an_opaque_endpoint_hears_of_no_key(adapters: list[ProviderAdapter], simulator: Simulator) -> None:
    """What nobody asked for is not sent: the same call again is another one, and nothing is stored there."""
    adapter = an_adapter(adapters, simulator, EndpointClass.OPAQUE)
    await adapter.chat_completion(ASKED, timeout_s=10)
    await adapter.chat_completion(replace(ASKED, lost_at_s=time.time() - 60), timeout_s=10)

    assert bills(simulator) == 2
    assert simulator.stats()["total"]["repeated"] == 0


async def test_a_lost_call_that_is_listed_is_adopted(adapters: list[ProviderAdapter], simulator: Simulator) -> None:
    """Although it is not listed at first: younger than the lag, its absence says nothing."""
    adapter = an_adapter(adapters, simulator, EndpointClass.LOOKUP)
    first = await adapter.chat_completion(ASKED, timeout_s=10)
    found = await adapter.chat_completion(replace(ASKED, lost_at_s=time.time()), timeout_s=10)

    assert (found.provider_id, found.text, found.usage) == (first.provider_id, first.text, first.usage)
    assert bills(simulator) == 1


async def test_a_lost_call_that_never_was_is_sent_once_the_lag_is_over(
    adapters: list[ProviderAdapter], simulator: Simulator
) -> None:
    """Not before; and under the same key, so that it can be found if this life is lost too."""
    adapter = an_adapter(adapters, simulator, EndpointClass.LOOKUP)
    lost_at_s = time.time()
    sent = await adapter.chat_completion(replace(ASKED, lost_at_s=lost_at_s), timeout_s=20)

    assert time.time() - lost_at_s >= LAG_S
    assert bills(simulator) == 1
    found = await adapter.chat_completion(replace(ASKED, lost_at_s=time.time()), timeout_s=20)
    assert found.provider_id == sent.provider_id
    assert bills(simulator) == 1


async def test_a_lag_that_is_given_too_short_buys_twice(adapters: list[ProviderAdapter], simulator: Simulator) -> None:
    """The lag is what the promise hangs on: without it, a call that is not listed yet looks as if it had never been."""
    adapter = an_adapter(adapters, simulator, EndpointClass.LOOKUP)
    await adapter.chat_completion(ASKED, timeout_s=10)
    await adapter.chat_completion(replace(ASKED, lost_at_s=time.time() - 2 * LAG_S), timeout_s=10)

    assert bills(simulator) == 2


async def test_nothing_is_sent_while_the_list_cannot_be_read(
    adapters: list[ProviderAdapter], simulator: Simulator
) -> None:
    """Whether it was billed stays unknown, also where the refusal itself cost nothing."""
    adapter = an_adapter(adapters, simulator, EndpointClass.LOOKUP, key="sk-gone")
    with pytest.raises(UpstreamError) as caught:
        await adapter.chat_completion(replace(ASKED, lost_at_s=time.time() - 60), timeout_s=10)

    assert caught.value.billed is None
    assert simulator.stats()["total"]["requests"] == 0
