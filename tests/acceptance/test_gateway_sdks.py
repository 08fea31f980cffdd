"""The official SDKs against a real server, unmodified: whatever they speak, whichever provider answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import SecretStr

from tests.acceptance.conftest import ServeIt, Server
from tests.fakes import gateway_cells, gateway_matrix, gateway_pool
from tests.fakes.gateway_matrix import CHAT_TOOLS, Clients, Town, clients_of, says
from tests.fakes.gateway_pool import (
    CALLS,
    DIMENSIONS,
    EMBEDDER,
    GONE,
    GREETING,
    KEY,
    KEY_ONE_MODEL,
    KEY_POOR,
    KEY_RPM,
    LIMITED,
    LONG,
    MEASURED,
    MODELS,
    POOR_USD,
    RPM,
    SHARED,
    SICK,
)
from tests.fakes.simulated import Simulator

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]
MODEL = MODELS["openai"]


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """The simulator behind the server."""
    with gateway_pool.running_pool(tmp_path_factory.mktemp("provider")) as running:
        yield running


@pytest.fixture(scope="module")
def server(serve_it: ServeIt, provider: Simulator) -> Server:
    """One server for all tests of the module."""
    return serve_it(gateway_pool.configuration(provider.url))


@pytest.fixture
def clients(server: Server, provider: Simulator) -> Clients:
    """SDKs with the key of everybody, and a provider without faults."""
    gateway_pool.renew(provider)
    return clients_of(server.url)


@pytest.mark.parametrize(("form", "behind", "feature"), gateway_cells.CELLS)
def test_every_format_reaches_every_provider(clients: Clients, form: str, behind: str, feature: str) -> None:
    """A cell of the conformance matrix in docs/compatibility.md."""
    gateway_matrix.CHECKS[form, feature](clients, MODELS[behind])


async def test_asynchronous_openai_client_asks_and_streams(server: Server) -> None:
    """The SDK's other half: the same answers on an event loop."""
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=30) as client:
        whole = await client.chat.completions.create(model=MODEL, messages=says("please greet"))
        stream = await client.chat.completions.create(model=MODEL, messages=says("please greet"), stream=True)
        chunks = [chunk async for chunk in stream]

    assert whole.choices[0].message.content == GREETING
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == GREETING
    assert all(chunk.usage is None for chunk in chunks)


async def test_asynchronous_anthropic_client_asks_and_streams(server: Server) -> None:
    """The SDK's other half: the same answers on an event loop."""
    async with anthropic.AsyncAnthropic(base_url=server.url, api_key=KEY, max_retries=0, timeout=30) as client:
        whole = await client.messages.create(model=MODEL, max_tokens=500, messages=says("please greet"))
        async with client.messages.stream(model=MODEL, max_tokens=500, messages=says("please greet")) as stream:
            final = await stream.get_final_message()

    assert whole.content[0].model_dump()["text"] == GREETING
    assert final.content[0].model_dump()["text"] == GREETING


def test_several_choices_come_where_the_provider_has_them(clients: Clients) -> None:
    """``n`` is passed on, and refused by its name where it cannot be."""
    answer = clients.openai.chat.completions.create(model=MODEL, messages=says("please greet"), n=3)
    with pytest.raises(openai.BadRequestError) as refused:
        clients.openai.chat.completions.create(model=MODELS["anthropic"], messages=says("please greet"), n=3)

    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert refused.value.param == "n"


def test_api_v1_chooses_the_model_and_says_who_answered(server: Server, clients: Clients) -> None:
    """Without a model routing chooses; the reply carries ``content`` and ``provider`` at its top."""
    client = openai.OpenAI(base_url=f"{server.url}/api/v1", api_key=KEY, max_retries=0, timeout=30)
    answer: Any = client.post("/chat/completions", body={"messages": says("please greet")}, cast_to=object)

    assert answer["content"] == GREETING
    assert answer["provider"] == "openai"
    assert answer["model"] == MODEL


def test_models_are_listed_and_described(server: Server, clients: Clients) -> None:
    """The SDK's list and retrieve; what a key may not use it does not see."""
    everything = {model.id: model for model in clients.openai.models.list()}
    one = clients.openai.models.retrieve(SHARED).model_dump()
    narrow = clients_of(server.url, KEY_ONE_MODEL).openai
    with pytest.raises(openai.NotFoundError):
        narrow.models.retrieve(MODEL)

    assert {*MODELS.values(), SHARED, EMBEDDER} <= set(everything)
    assert [model.id for model in narrow.models.list()] == [SHARED]
    assert one["accounts"] == 2
    assert one["context_tokens"] == 200_000
    assert set(one) >= {"capabilities", "strengths", "best_for", "prices", "health"}


def test_anthropic_client_counts_tokens_without_a_call(clients: Clients, provider: Simulator) -> None:
    """Counting answers at once and buys nothing."""
    few = clients.anthropic.messages.count_tokens(model=MODEL, messages=says("one word"))
    many = clients.anthropic.messages.count_tokens(model=MODEL, messages=says("word " * 500))

    assert 0 < few.input_tokens < many.input_tokens
    assert provider.stats()["total"]["requests"] == 0


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_embeddings_come_as_vectors_in_order(clients: Clients, encoding: Any) -> None:
    """One vector for each text, whichever encoding the SDK asks for; it asks for base64 by itself."""
    more = {} if encoding is None else {"encoding_format": encoding}
    answer = clients.openai.embeddings.create(model=EMBEDDER, input=["tea", "coffee", "tea"], **more)
    again = clients.openai.embeddings.create(model=EMBEDDER, input="coffee")

    assert [row.index for row in answer.data] == [0, 1, 2]
    assert answer.model == EMBEDDER
    assert answer.usage.prompt_tokens > 0
    if encoding != "base64":
        assert [len(row.embedding) for row in answer.data] == [DIMENSIONS] * 3
        assert answer.data[0].embedding == answer.data[2].embedding != answer.data[1].embedding
        assert answer.data[1].embedding == pytest.approx(again.data[0].embedding, abs=1e-6)


# Errors, as each SDK's own exceptions.


def test_errors_are_the_openai_sdks_own_exceptions(server: Server, clients: Clients, provider: Simulator) -> None:
    """What a program catches today it catches here: the class, the code and the field."""
    create = clients.openai.chat.completions.create
    wrong = clients_of(server.url, "key-of-nobody").openai
    narrow = clients_of(server.url, KEY_ONE_MODEL).openai
    with pytest.raises(openai.AuthenticationError) as unknown:
        wrong.chat.completions.create(model=MODEL, messages=says("hello"))
    with pytest.raises(openai.NotFoundError) as missing:
        create(model="model-none", messages=says("hello"))
    with pytest.raises(openai.BadRequestError) as bad:
        create(model=MODEL, messages=says("hello"), temperature=9)
    with pytest.raises((openai.NotFoundError, openai.PermissionDeniedError)):
        narrow.chat.completions.create(model=MODEL, messages=says("hello"))
    with pytest.raises(openai.InternalServerError):
        create(model=GONE, messages=says("hello"))

    assert unknown.value.code == "invalid_api_key"
    assert missing.value.code == "model_not_found"
    assert SHARED in missing.value.message
    assert bad.value.param == "temperature"
    assert all(error.value.request_id for error in (unknown, missing, bad))
    assert provider.stats()["total"]["accepted"] == 0


def test_provider_failures_are_the_openai_sdks_own_exceptions(clients: Clients, provider: Simulator) -> None:
    """A refusal, a breakdown and a full pool of the provider each keep their class."""
    create = clients.openai.chat.completions.create
    gateway_pool.renew(provider, {"match": {"model": SICK}, "kind": "http_400"})
    with pytest.raises(openai.BadRequestError):
        create(model=SICK, messages=says("hello"))
    gateway_pool.renew(provider, {"match": {"model": SICK}, "kind": "http_500"})
    with pytest.raises(openai.InternalServerError) as broken:
        create(model=SICK, messages=says("hello"))
    attempts = provider.stats()["total"]["accepted"]
    gateway_pool.renew(provider, {"match": {"model": LIMITED}, "kind": "http_429", "retry_after": "60"})
    with pytest.raises(openai.RateLimitError) as full:
        create(model=LIMITED, messages=says("hello"))

    assert "simulat" not in broken.value.message.lower()
    assert 1 <= attempts <= 4
    assert 1 <= int(full.value.response.headers["retry-after"]) <= 60


def test_callers_limit_is_a_rate_limit_error(server: Server, clients: Clients, provider: Simulator) -> None:
    """A key over its own limit gets 429 with the time to come back and its limits; nothing reaches the provider."""
    limited = clients_of(server.url, KEY_RPM).openai
    raw = [limited.chat.completions.with_raw_response.create(model=MODEL, messages=says("greet")) for _ in range(RPM)]
    with pytest.raises(openai.RateLimitError) as over:
        limited.chat.completions.create(model=MODEL, messages=says("greet"))
    left = [int(answer.headers["x-ratelimit-remaining-requests"]) for answer in raw]

    assert {answer.headers["x-ratelimit-limit-requests"] for answer in raw} == {str(RPM)}
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0
    assert all("x-ratelimit-reset-requests" in answer.headers for answer in raw)
    assert all("x-ratelimit-remaining-tokens" in answer.headers for answer in raw)
    assert 1 <= int(over.value.response.headers["retry-after"]) <= 60 / RPM + 1
    assert over.value.code == "rate_limit_exceeded"
    assert provider.stats()["total"]["requests"] == RPM


def test_spent_budget_is_a_rate_limit_error_that_is_not_tried_again(server: Server, provider: Simulator) -> None:
    """What is left is used, never exceeded by the provider's own bill, and an SDK that retries does not."""
    gateway_pool.renew(provider)
    sent: list[httpx.Request] = []
    http = httpx.Client(event_hooks={"request": [sent.append]})
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY_POOR, max_retries=2, timeout=30, http_client=http)
    answered: list[Any] = []

    def spend() -> None:
        for _ in range(100):
            answered.append(client.chat.completions.create(model=MODEL, messages=says("please greet"), max_tokens=10))

    with pytest.raises(openai.RateLimitError) as spent:
        spend()
    with pytest.raises(anthropic.RateLimitError):
        clients_of(server.url, KEY_POOR).anthropic.messages.create(
            model=MODEL, max_tokens=10, messages=says("please greet")
        )
    total = provider.stats()["total"]

    assert spent.value.code == "insufficient_quota"
    assert spent.value.response.headers["x-should-retry"] == "false"
    assert "retry-after" not in spent.value.response.headers
    assert len(sent) == len(answered) + 1
    assert len(answered) == total["requests"] >= 1
    assert total["billed_input_tokens"] * 1e-6 + total["billed_output_tokens"] * 4e-6 <= POOR_USD


def test_errors_are_the_anthropic_sdks_own_exceptions(server: Server, clients: Clients, provider: Simulator) -> None:
    """The same refusals in Anthropic's shape."""
    create = clients.anthropic.messages.create
    wrong = clients_of(server.url, "key-of-nobody").anthropic
    with pytest.raises(anthropic.AuthenticationError) as unknown:
        wrong.messages.create(model=MODEL, max_tokens=9, messages=says("hello"))
    with pytest.raises(anthropic.NotFoundError) as missing:
        create(model="model-none", max_tokens=9, messages=says("hello"))
    with pytest.raises(anthropic.BadRequestError) as bad:
        create(model=MODEL, max_tokens=9, messages=says("hello"), extra_body={"temperature": 9})
    with pytest.raises(anthropic.BadRequestError) as uncounted:
        clients.anthropic.messages.count_tokens(model=MODEL, messages=[])
    with pytest.raises(anthropic.InternalServerError):
        create(model=GONE, max_tokens=9, messages=says("hello"))

    shapes: list[Any] = [error.value.body for error in (unknown, missing, bad, uncounted)]
    assert [shape["error"]["type"] for shape in shapes] == [
        "authentication_error",
        "not_found_error",
        "invalid_request_error",
        "invalid_request_error",
    ]
    assert "temperature" in bad.value.message
    assert all(shape["type"] == "error" for shape in shapes)
    assert all(error.value.request_id for error in (unknown, missing, bad))
    assert provider.stats()["total"]["accepted"] == 0


# Abort, timeouts, broken streams.


def test_stream_that_the_openai_client_closes_stops_the_provider(clients: Clients, provider: Simulator) -> None:
    """Who stops reading stops paying: the provider's own count says that its client went away."""
    stream = clients.openai.chat.completions.create(model=MODEL, messages=says("write slowly"), stream=True)
    for _ in range(4):
        next(stream)
    stream.close()

    wait_for(lambda: provider.stats()["total"]["in_flight"] == 0)
    total = provider.stats()["total"]
    assert total["cancelled_by_client"] == 1
    assert total["billed_output_tokens"] < len(LONG.split())


def test_stream_that_the_anthropic_client_closes_stops_the_provider(clients: Clients, provider: Simulator) -> None:
    """The same for Anthropic's SDK."""
    with clients.anthropic.messages.stream(model=MODEL, max_tokens=4_000, messages=says("write slowly")) as stream:
        for _ in range(4):
            next(stream.text_stream)

    wait_for(lambda: provider.stats()["total"]["in_flight"] == 0)
    assert provider.stats()["total"]["cancelled_by_client"] == 1


def test_client_that_times_out_stops_the_provider(clients: Clients, provider: Simulator) -> None:
    """The SDK's timeout is the SDK's own exception, and ends the stream behind it (``test_gateway_departures``).

    HAProxy 2.8 now and then keeps a connection whose client has gone, so it may take a second client to see it.
    """
    for _attempt in range(4):
        with pytest.raises(openai.APITimeoutError):
            clients.openai.with_options(timeout=1.0).chat.completions.create(
                model=MODEL, messages=says("hang on"), stream=True
            )
        until_s = time.monotonic() + 4.0
        while time.monotonic() < until_s and not provider.stats()["total"]["cancelled_by_client"]:
            time.sleep(0.1)
        if provider.stats()["total"]["cancelled_by_client"]:
            return
    pytest.fail("no provider call was stopped")


def test_deadline_of_the_client_is_kept(clients: Clients, provider: Simulator) -> None:
    """``x-tutti-timeout`` ends a call in time with an error that the SDK knows."""
    began_s = time.monotonic()
    with pytest.raises(openai.InternalServerError) as late:
        clients.openai.chat.completions.create(
            model=MODEL, messages=says("hang on"), extra_headers={"x-tutti-timeout": "1"}
        )

    assert late.value.status_code == 504
    assert time.monotonic() - began_s < 10
    wait_for(lambda: provider.stats()["total"]["in_flight"] == 0)


def test_stream_that_breaks_says_so_as_an_error(clients: Clients, provider: Simulator) -> None:
    """After the first byte nothing is retried: what came stays, and the SDK raises."""
    gateway_pool.renew(provider, {"match": {"model": SHARED}, "kind": "cut_stream", "at_chunk": 3})
    said: list[str] = []
    broken = clients.openai.chat.completions.create(model=SHARED, messages=says("please greet"), stream=True)
    with pytest.raises(openai.APIError):
        said.extend(choice.delta.content or "" for chunk in broken for choice in chunk.choices)
    with (
        pytest.raises(anthropic.APIError),
        clients.anthropic.messages.stream(model=SHARED, max_tokens=500, messages=says("please greet")) as stream,
    ):
        stream.until_done()

    assert GREETING.startswith("".join(said))
    assert "".join(said)
    assert provider.stats()["total"]["accepted"] == 2


# LangChain.


def langchain(server: Server, model: str = MODEL) -> ChatOpenAI:
    """Return LangChain's client for a model."""
    return ChatOpenAI(model=model, base_url=f"{server.url}/v1", api_key=SecretStr(KEY), max_retries=0, timeout=30)


def weather(city: str) -> str:
    """Say how warm it is."""
    return f"21 degrees in {city}"


WEATHER: Any = tool(weather)


@pytest.mark.parametrize("behind", MODELS)
def test_langchain_asks_streams_and_calls_tools(server: Server, clients: Clients, behind: str) -> None:
    """LangChain's client runs unmodified with every provider."""
    model = langchain(server, MODELS[behind])
    bound = model.bind_tools([WEATHER])
    whole = model.invoke("please greet")
    pieces = list(model.stream("please greet"))
    calls = bound.invoke("weather in two towns").tool_calls
    asked = HumanMessage("weather in one town")
    first = bound.invoke([asked])
    assert isinstance(first, AIMessage)
    result = WEATHER.invoke(first.tool_calls[0])
    assert isinstance(result, ToolMessage)
    measured = bound.invoke([asked, first, result])

    assert whole.content == GREETING
    assert isinstance(whole, AIMessage)
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] > 0
    assert "".join(str(piece.content) for piece in pieces) == GREETING
    assert [(call["name"], call["args"]) for call in calls] == CALLS
    assert measured.content == MEASURED


def test_langchain_reads_structured_answers_and_embeddings(server: Server, clients: Clients) -> None:
    """``with_structured_output`` gives an object; embeddings are vectors of text."""
    town = langchain(server).with_structured_output(Town).invoke("a town")
    embedder = OpenAIEmbeddings(
        model=EMBEDDER, base_url=f"{server.url}/v1", api_key=SecretStr(KEY), check_embedding_ctx_length=False
    )

    assert isinstance(town, Town)
    assert [len(vector) for vector in embedder.embed_documents(["tea", "coffee"])] == [DIMENSIONS] * 2


def test_usage_is_counted_even_if_the_stream_was_not_asked_for_it(
    server: Server, clients: Clients, provider: Simulator
) -> None:
    """The client sees no usage; the account's totals grow by the provider's own bill."""
    before = counted_at_rest(server, "o")
    chunks = list(clients.openai.chat.completions.create(model=MODEL, messages=says("please greet"), stream=True))
    billed = provider.stats()["keys"]["sk-o"]

    wait_for(lambda: counted(server, "o") != before)
    after = counted(server, "o")
    assert all(chunk.usage is None for chunk in chunks)
    assert after[0] - before[0] == billed["billed_input_tokens"] > 0
    assert after[1] - before[1] == billed["billed_output_tokens"] > 0


def counted(server: Server, account: str) -> tuple[int, int]:
    """Return the tokens in and out of an account, as operators see them."""
    answer = httpx.get(f"{server.url}/v1/accounts", headers={"authorization": f"Bearer {KEY}"}, timeout=30)
    rows = [row for row in answer.json()["data"] if row["account"] == account]
    return sum(row["input_tokens"] for row in rows), sum(row["output_tokens"] for row in rows)


def counted_at_rest(server: Server, account: str) -> tuple[int, int]:
    """Return the same once the reports of all calls before are in: a replica sends them a little later."""
    before: tuple[int, int] | None = None
    now = counted(server, account)
    while now != before:
        time.sleep(3.0)
        before, now = now, counted(server, account)
    return now


def test_streamed_tool_arguments_are_valid_json_at_their_end(clients: Clients) -> None:
    """Fragments of arguments belong to their call by index."""
    parts: dict[int, str] = {}
    for chunk in clients.openai.chat.completions.create(
        model=MODELS["gemini"], messages=says("weather in two towns"), tools=CHAT_TOOLS, stream=True
    ):
        for choice in chunk.choices:
            for call in choice.delta.tool_calls or []:
                assert call.function is not None
                parts[call.index] = parts.get(call.index, "") + (call.function.arguments or "")

    assert [json.loads(parts[index]) for index in sorted(parts)] == [arguments for _name, arguments in CALLS]


def wait_for(holds: Callable[[], bool], *, within_s: float = 15.0) -> None:
    """Wait until ``holds``."""
    deadline_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline_s, "it never came"
        time.sleep(0.1)
