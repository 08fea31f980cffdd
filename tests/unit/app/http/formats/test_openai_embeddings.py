"""OpenAI's embeddings: fields arrive or are refused by name, and the official SDK reads the vectors."""

from __future__ import annotations

from typing import Any, Literal

import httpx
import openai
import orjson
import pytest

from app.domain.chat import Json
from app.domain.errors import RequestError
from app.domain.gateway import EmbeddingRequest, EmbeddingResult, Served
from app.http.formats.openai_embeddings import INPUTS_MAX, OpenAIEmbeddings

FORMAT = OpenAIEmbeddings()
SERVED = Served(request_id="r1", created_s=1, account="a", provider="openai", model="e")
RESULT = EmbeddingResult(vectors=((0.1, -0.7), (0.25, 1)), input_tokens=3)


def parse(**fields: Json) -> EmbeddingRequest:
    """Return what the format reads of ``fields``."""
    return FORMAT.parse({"model": "e", **fields}).request


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"input": "pie"}, EmbeddingRequest(model="e", inputs=("pie",))),
        ({"input": ["pie", "tart"]}, EmbeddingRequest(model="e", inputs=("pie", "tart"))),
        (
            {"input": "pie", "dimensions": 8, "user": "u"},
            EmbeddingRequest(model="e", inputs=("pie",), dimensions=8, user="u"),
        ),
        ({"input": "pie", "dimensions": None, "user": None, "x": None}, EmbeddingRequest(model="e", inputs=("pie",))),
        (
            {"input": "pie", "task": {"a": 1}},
            EmbeddingRequest(model="e", inputs=("pie",), extra=(("task", '{"a":1}'),)),
        ),
    ],
)
def test_field_arrives(fields: dict[str, Json], expected: EmbeddingRequest) -> None:
    """What the client sets is what is asked; what only a provider knows is passed on."""
    assert parse(**fields) == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": {"text": "x"}}, "input"),
        ({"input": [1, 2, 3]}, "input"),
        ({"input": [[1, 2], [3]]}, "input[0]"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", 5]}, "input[1]"),
        ({"input": ["a", None]}, "input[1]"),
        ({"input": ["a"] * (INPUTS_MAX + 1)}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": True}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "encoding_format": ["float"]}, "encoding_format"),
        ({"input": "a", "user": 5}, "user"),
        ({"input": "a", "model": ""}, "model"),
    ],
)
def test_refusal_names_the_field(fields: dict[str, Json], param: str) -> None:
    """Whoever gets a 400 can find the place in their own request."""
    with pytest.raises(RequestError) as caught:
        parse(**fields)

    assert caught.value.param == param


def test_token_numbers_are_refused_with_a_remedy() -> None:
    """LangChain sends them unless told otherwise."""
    with pytest.raises(RequestError) as caught:
        parse(input=[[1, 2]])

    assert "check_embedding_ctx_length=False" in (caught.value.remedy or "")


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_sdk_reads_the_vectors(encoding: Literal["float", "base64"] | None) -> None:
    """The official SDK asks for base64 unless told otherwise, and unpacks it."""

    def answer(request: httpx.Request) -> httpx.Response:
        asked = FORMAT.parse(orjson.loads(request.content))
        return httpx.Response(200, json=orjson.loads(orjson.dumps(FORMAT.render(RESULT, asked, SERVED))))

    client = openai.OpenAI(
        api_key="k", base_url="http://t/v1", http_client=httpx.Client(transport=httpx.MockTransport(answer))
    )
    options: dict[str, Any] = {} if encoding is None else {"encoding_format": encoding}
    found = client.embeddings.create(model="e", input=["pie", "tart"], **options)

    assert (found.object, found.model, found.usage.prompt_tokens, found.usage.total_tokens) == ("list", "e", 3, 3)
    assert [item.index for item in found.data] == [0, 1]
    if encoding != "base64":
        assert [item.embedding for item in found.data] == [
            pytest.approx([0.1, -0.7], abs=1e-7),
            pytest.approx([0.25, 1], abs=1e-7),
        ]
    else:
        assert [item.embedding for item in found.data] == ["zczMPTMzM78=", "AACAPgAAgD8="]


def test_error_has_openais_shape() -> None:
    """One shape of errors for all of OpenAI's doors."""
    body = FORMAT.error(404, "not_found_error", "no such model", param="model", request_id="r1")

    assert body["error"] == {
        "message": "no such model",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
