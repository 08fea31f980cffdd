"""The simulator over real sockets, driven by the providers' official clients: they judge whether its wire is theirs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from google.genai import errors, types

from tests.fakes.simulator_process import (
    ASK,
    BASE,
    HELLO,
    HTTP,
    KEY,
    Sim,
    ask_anthropic,
    ask_gemini,
    ask_openai,
    started,
)

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    sim = started(tmp_path_factory.mktemp("sim"))
    yield sim
    sim.end()


@pytest.fixture
def sim(process: Sim) -> Sim:
    return process.fresh()


def test_openai_chat_bills_what_its_usage_says(sim: Sim) -> None:
    """Reasoning is inside the completion's tokens, cached inside the prompt's."""
    sim.control(profile={**BASE["profile"], "reasoning_tokens": 5, "cached_tokens": 1})
    answer = ask_openai(sim, max_tokens=20)

    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 20)
    assert answer.usage.completion_tokens_details.reasoning_tokens == 5
    assert answer.usage.prompt_tokens_details.cached_tokens == 1
    assert (answer.choices[0].finish_reason, len(answer.choices[0].message.content)) == ("length", 60)
    assert len(answer.choices[0].message.reasoning_content) == 20
    total = sim.settled()
    assert (total["billed_input_tokens"], total["billed_output_tokens"], total["completed"]) == (2, 20, 1)


def test_openai_stream_says_the_same_as_the_whole_answer_and_ends_with_usage(sim: Sim) -> None:
    """One extra chunk without choices carries usage; all others carry null."""
    whole = ask_openai(sim)
    chunks = list(ask_openai(sim, stream=True, stream_options={"include_usage": True}))

    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == whole.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert [c.choices[0].finish_reason for c in chunks[:-1]].count("stop") == 1


def test_openai_stream_without_include_usage_has_none(sim: Sim) -> None:
    """Clients that forget the option get no usage from the provider either."""
    assert all(chunk.usage is None for chunk in ask_openai(sim, stream=True))


def test_deepseek_dialect_puts_usage_on_the_last_chunk_with_a_choice(sim: Sim) -> None:
    """And cache hits in fields of its own."""
    sim.control(profile={**BASE["profile"], "dialect": "deepseek", "cached_tokens": 1})
    last = list(ask_openai(sim, stream=True, stream_options={"include_usage": True}))[-1]

    assert last.choices[0].finish_reason == "stop"
    assert (last.usage.prompt_cache_hit_tokens, last.usage.prompt_cache_miss_tokens) == (1, 1)


def test_openai_streams_tool_calls_in_fragments(sim: Sim) -> None:
    """Name and id come first and once; the arguments join to a valid instance."""
    tools = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("other", "trip")]
    choice = {"type": "function", "function": {"name": "trip"}}
    fragments = [
        chunk.choices[0].delta.tool_calls[0]
        for chunk in ask_openai(sim, stream=True, tools=tools, tool_choice=choice)
        if chunk.choices[0].delta.tool_calls
    ]

    assert [part.function.name for part in fragments if part.function.name] == ["trip"]
    assert len([part.id for part in fragments if part.id]) == 1
    assert len(fragments) > 3
    assert set(json.loads("".join(part.function.arguments for part in fragments))) == {"city", "days"}


def test_openai_json_schema_and_choices(sim: Sim) -> None:
    """Every choice is an instance, and they differ."""
    wanted = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA, "strict": True}}
    answer = ask_openai(sim, response_format=wanted, n=3)
    made = [json.loads(choice.message.content) for choice in answer.choices]

    assert all(set(one) == {"city", "days"} and 1 <= one["days"] <= 9 for one in made)
    assert len({one["city"] for one in made}) > 1
    assert sim.settled()["billed_output_tokens"] == answer.usage.completion_tokens


def test_openai_embeddings_are_near_for_shared_words_and_have_no_output(sim: Sim) -> None:
    """In both encodings; the client decodes base64 by default."""
    client = sim.openai()
    asked: Any = {"model": "e", "input": ["red apple pie", "red apple tart", "tax law"], "dimensions": 64}
    answer = client.embeddings.create(**asked)
    plain = client.embeddings.create(**asked, encoding_format="float")
    pie, tart, law = (item.embedding for item in answer.data)

    def near(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert near(pie, tart) > near(pie, law) + 0.3
    assert plain.data[0].embedding == pytest.approx(pie, abs=1e-6)
    assert answer.usage.prompt_tokens == 9
    assert sim.settled()["billed_output_tokens"] == 0


def test_anthropic_message_keeps_cached_tokens_outside_its_input(sim: Sim) -> None:
    """The classic mapping mistake: OpenAI includes them."""
    sim.control(profile={**BASE["profile"], "reasoning_tokens": 5, "cached_tokens": 1})
    answer = ask_anthropic(sim, max_tokens=20)

    assert (answer.usage.input_tokens, answer.usage.cache_read_input_tokens, answer.usage.output_tokens) == (1, 1, 20)
    assert answer.usage.output_tokens_details.thinking_tokens == 5
    assert [block.type for block in answer.content] == ["thinking", "text"]
    assert answer.stop_reason == "max_tokens"
    assert sim.settled()["billed_input_tokens"] == 2


def test_anthropic_stream_adds_up_to_the_whole_message(sim: Sim) -> None:
    """The client assembles blocks, usage and stop reason from the events."""
    sim.control(profile={**BASE["profile"], "reasoning_tokens": 5})
    whole = ask_anthropic(sim)
    with sim.anthropic().messages.stream(model="m", max_tokens=50, messages=HELLO) as stream:
        names = [event.type for event in stream]
        final = stream.get_final_message()

    assert (names[0], names[-1]) == ("message_start", "message_stop")
    assert [block.model_dump(exclude_none=True) for block in final.content] == [
        block.model_dump(exclude_none=True) for block in whole.content
    ]
    assert (final.usage.output_tokens, final.stop_reason) == (whole.usage.output_tokens, whole.stop_reason)


def test_anthropic_tools_and_schemas(sim: Sim) -> None:
    """A tool's input is an object; structured output is text."""
    tools: list[Any] = [{"name": "trip", "input_schema": SCHEMA}]
    asked: Any = {"model": "m", "max_tokens": 90, "messages": HELLO}
    with sim.anthropic().messages.stream(**asked, tools=tools, tool_choice={"type": "any"}) as stream:
        called = stream.get_final_message()
    plain = ask_anthropic(sim, output_config={"format": {"type": "json_schema", "schema": SCHEMA}})

    assert called.stop_reason == "tool_use"
    block = called.content[0]
    assert block.type == "tool_use"
    assert set(block.input) == {"city", "days"}
    assert set(json.loads(plain.content[0].text)) == {"city", "days"}


def test_anthropic_counts_tokens_for_nothing(sim: Sim) -> None:
    """By the same rule as it bills."""
    counted = sim.anthropic().messages.count_tokens(model="m", system="be brief", messages=HELLO)

    assert counted.input_tokens == 4
    assert sim.total()["requests"] == 0


def test_anthropic_requires_max_tokens(sim: Sim) -> None:
    """As the provider does; refused requests are counted and not billed."""
    with pytest.raises(anthropic.BadRequestError, match="max_tokens: Field required"):
        sim.anthropic().post("/v1/messages", body={"model": "m", "messages": HELLO}, cast_to=object)

    assert (sim.total()["rejected"], sim.total()["billed_requests"]) == ({"invalid": 1}, 0)


def test_gemini_counts_thoughts_outside_candidates_and_inside_the_total(sim: Sim) -> None:
    """Billed output is both."""
    sim.control(profile={**BASE["profile"], "reasoning_tokens": 5, "cached_tokens": 1})
    answer = ask_gemini(sim, max_output_tokens=20)
    usage = answer.usage_metadata

    assert (usage.candidates_token_count, usage.thoughts_token_count, usage.total_token_count) == (15, 5, 22)
    assert (usage.prompt_token_count, usage.cached_content_token_count) == (2, 1)
    assert answer.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS
    assert [bool(part.thought) for part in answer.candidates[0].content.parts] == [True, False]
    assert sim.settled()["billed_output_tokens"] == 20


def test_gemini_streams_cumulative_usage(sim: Sim) -> None:
    """Each chunk repeats it; the last is the bill."""
    whole = ask_gemini(sim)
    chunks = list(sim.gemini().models.generate_content_stream(model="m", contents="hello"))
    counts = [chunk.usage_metadata.candidates_token_count or 0 for chunk in chunks if chunk.usage_metadata]

    assert "".join(chunk.text or "" for chunk in chunks) == whole.text
    assert counts == sorted(counts)
    assert counts[-1] == whole.usage_metadata.candidates_token_count


def test_gemini_streams_a_json_array_without_sse(sim: Sim) -> None:
    """And its errors are arrays then, too."""
    url, body = f"{sim.url}/v1beta/models/m:streamGenerateContent", {"contents": [{"parts": [{"text": "hello"}]}]}
    answer = HTTP.post(url, json=body, headers={"x-goog-api-key": KEY}).json()
    sim.control(faults=[{"kind": "http_503"}])
    error = HTTP.post(url, json=body, headers={"x-goog-api-key": KEY})

    assert answer[-1]["candidates"][0]["finishReason"] == "STOP"
    assert (error.status_code, error.json()[0]["error"]["status"]) == (503, "UNAVAILABLE")


def test_gemini_tools_schemas_counts_and_embeddings(sim: Sim) -> None:
    """Through the client's own types."""
    function = types.FunctionDeclaration(name="trip", parameters_json_schema=SCHEMA)
    called = ask_gemini(sim, tools=[types.Tool(function_declarations=[function])])
    made = ask_gemini(sim, response_mime_type="application/json", response_json_schema=SCHEMA)
    models = sim.gemini().models
    embedded = models.embed_content(
        model="e", contents=["a", "b"], config=types.EmbedContentConfig(output_dimensionality=8)
    )

    assert set(called.function_calls[0].args) == {"city", "days"}
    assert set(json.loads(made.text)) == {"city", "days"}
    assert models.count_tokens(model="m", contents="hello you").total_tokens == 3
    assert [len(item.values or []) for item in embedded.embeddings or []] == [8, 8]


EXPECTED: dict[str, dict[str, tuple[type[Exception], int]]] = {
    "openai": {
        "http_400": (openai.BadRequestError, 400),
        "http_401": (openai.AuthenticationError, 401),
        "http_402": (openai.APIStatusError, 402),
        "http_403": (openai.PermissionDeniedError, 403),
        "http_404": (openai.NotFoundError, 404),
        "http_413": (openai.APIStatusError, 413),
        "http_429": (openai.RateLimitError, 429),
        "http_500": (openai.InternalServerError, 500),
        "http_503": (openai.InternalServerError, 503),
        "http_504": (openai.InternalServerError, 504),
        "http_529": (openai.InternalServerError, 529),
    },
    "anthropic": {
        "http_400": (anthropic.BadRequestError, 400),
        "http_401": (anthropic.AuthenticationError, 401),
        "http_402": (anthropic.APIStatusError, 402),
        "http_403": (anthropic.PermissionDeniedError, 403),
        "http_404": (anthropic.NotFoundError, 404),
        "http_413": (anthropic.APIStatusError, 413),
        "http_429": (anthropic.RateLimitError, 429),
        "http_500": (anthropic.InternalServerError, 500),
        "http_503": (anthropic.APIStatusError, 503),
        "http_504": (anthropic.APIStatusError, 504),
        "http_529": (anthropic.APIStatusError, 529),
    },
    "gemini": {
        **{f"http_{code}": (errors.ClientError, code) for code in (400, 401, 402, 403, 404, 413, 429)},
        **{f"http_{code}": (errors.ServerError, code) for code in (500, 503, 504)},
        "http_529": (errors.ServerError, 503),
    },
}


def status_of(error: Any) -> int:
    return int(error.code if isinstance(error, errors.APIError) else error.status_code)


@pytest.mark.parametrize("wire", EXPECTED)
def test_status_faults_are_the_clients_own_exceptions_and_cost_nothing(sim: Sim, wire: str) -> None:
    """Counted as failed by fault, one by one."""
    for kind, (exception, status) in EXPECTED[wire].items():
        sim.control(faults=[{"kind": kind}])
        with pytest.raises(exception) as caught:
            ASK[wire](sim)
        assert status_of(caught.value) == status

    total = sim.settled()
    assert total["failed_by_fault"] == dict.fromkeys(EXPECTED[wire], 1)
    assert (total["billed_input_tokens"], total["accepted"]) == (0, len(EXPECTED[wire]))


def test_anthropic_errors_have_its_types(sim: Sim) -> None:
    """529 is overloaded_error: the provider is in trouble, not the key."""
    kinds = {"http_402": "billing_error", "http_429": "rate_limit_error", "http_529": "overloaded_error"}
    for kind, name in kinds.items():
        sim.control(faults=[{"kind": kind, "retry_after": 7}])
        with pytest.raises(anthropic.APIStatusError) as caught:
            ask_anthropic(sim)
        body: Any = caught.value.body
        assert body["error"]["type"] == name
        assert caught.value.response.headers["retry-after"] == "7"


def test_gemini_429_says_its_quota_and_its_delay(sim: Sim) -> None:
    """The quotaId is what tells a day's limit from a minute's."""
    sim.control(faults=[{"kind": "http_429", "retry_after": "38.2s", "quota_id": "GenerateRequestsPerDayPerProject"}])
    with pytest.raises(errors.ClientError) as caught:
        ask_gemini(sim)
    details = {item["@type"].rpartition(".")[2]: item for item in caught.value.details["error"]["details"]}

    assert caught.value.status == "RESOURCE_EXHAUSTED"
    assert details["QuotaFailure"]["violations"][0]["quotaId"] == "GenerateRequestsPerDayPerProject"
    assert details["RetryInfo"]["retryDelay"] == "38.2s"


def test_keys_that_may_not_be_used(sim: Sim) -> None:
    """A bad key is 401, at Gemini 400; an empty balance is 429 insufficient_quota, or 402."""
    sim.control(
        keys={
            "sk-gone": {"state": "revoked"},
            "sk-poor": {"state": "no_balance"},
            "sk-poor-ds": {"state": "no_balance", "headers": False},
        }
    )
    for key in ("sk-gone", "sk-never-seen"):
        with pytest.raises(openai.AuthenticationError) as bad_key:
            ask_openai(sim, key)
        assert bad_key.value.code == "invalid_api_key"
        with pytest.raises(anthropic.AuthenticationError):
            ask_anthropic(sim, key)
        with pytest.raises(errors.ClientError, match="API_KEY_INVALID") as caught:
            ask_gemini(sim, key)
        assert caught.value.code == 400
    with pytest.raises(openai.RateLimitError) as poor:
        ask_openai(sim, "sk-poor")
    with pytest.raises(openai.APIStatusError) as poorer:
        ask_openai(sim, "sk-poor-ds")

    assert (poor.value.code, poorer.value.status_code) == ("insufficient_quota", 402)
    assert sim.total()["rejected"] == {"auth": 6, "no_balance": 2}


def test_models_that_do_not_exist_and_prompts_that_do_not_fit(sim: Sim) -> None:
    """A model is refused in a format it does not speak, too."""
    sim.control(models={"m": {"formats": ["openai", "gemini"], "context_tokens": 10}})
    with pytest.raises(openai.NotFoundError) as unknown:
        ask_openai(sim, model="nope")
    with pytest.raises(anthropic.NotFoundError):
        ask_anthropic(sim)
    with pytest.raises(openai.BadRequestError) as long:
        ask_openai(sim, messages=[{"role": "user", "content": "x" * 21}], max_tokens=5)
    with pytest.raises(errors.ClientError, match="exceeds the maximum number of tokens"):
        sim.gemini().models.generate_content(model="m", contents="x" * 41)

    assert (unknown.value.code, long.value.code) == ("model_not_found", "context_length_exceeded")
    assert [model.id for model in sim.openai().models.list()] == ["m"]
    assert [model.name for model in sim.gemini().models.list()] == ["models/m"]


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"model": "m"}', b'{"model": "m", "messages": [1]}', b"\xff"])
def test_broken_bodies_are_refused_in_every_format(sim: Sim, body: bytes) -> None:
    """Never a 500: the simulator must not be the one that fails."""
    headers = {"authorization": f"Bearer {KEY}", "x-goog-api-key": KEY, "anthropic-version": "2023-06-01"}
    for path in ("/v1/chat/completions", "/v1/messages", "/v1beta/models/m:generateContent", "/v1/embeddings"):
        answer = HTTP.post(sim.url + path, content=body, headers=headers)
        assert answer.status_code == 400, path
        assert answer.json()["error"]["message"]
