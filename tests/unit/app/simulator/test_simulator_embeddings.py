"""The simulator's vectors: the same for the same text, near for shared words, refused where a provider would."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest

from app.simulator.config import Profile
from app.simulator.embeddings import GeminiEmbeddings, OpenAIEmbeddings, check_inputs, embed
from app.simulator.exchange import HttpRequest, Plan, Refusal


def http(body: dict[str, Any], path_model: str | None = None) -> HttpRequest:
    """Return a request with ``body``."""
    return HttpRequest(path="/", headers={}, query={}, raw=orjson.dumps(body), path_model=path_model)


def rendered(found: OpenAIEmbeddings | GeminiEmbeddings) -> dict[str, Any]:
    """Return the answer to a parsed request."""
    profile = Profile(embedding_dimensions=4)
    answer: dict[str, Any] = orjson.loads(
        found.render(Plan(request=found.request, choices=(), profile=profile, latency_s=0, number=1, created_s=1))
    )
    return answer


def test_vector_is_deterministic_of_unit_length_and_near_for_shared_words() -> None:
    """Retrieval can be rehearsed, and a test can know the answer."""
    pie, tart, law = (embed(text, 64) for text in ("an apple pie", "an apple tart", "constitutional law"))

    def near(one: list[float], other: list[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True))

    assert pie == embed("an apple pie", 64)
    assert math.isclose(near(pie, pie), 1)
    assert near(pie, tart) > near(pie, law)


def test_openai_answer_bills_the_prompt_of_all_inputs() -> None:
    """Usage is what limits are charged with."""
    found = OpenAIEmbeddings(http({"model": "e", "input": ["one two three", "four"], "dimensions": 2}))
    body = rendered(found)

    assert [len(row["embedding"]) for row in body["data"]] == [2, 2]
    assert body["usage"] == {
        "prompt_tokens": found.request.input_tokens,
        "total_tokens": found.request.input_tokens,
    }


def test_gemini_answers_one_text_or_a_list() -> None:
    """The verb decides the shape."""
    one = {"content": {"parts": [{"text": "pie"}]}, "outputDimensionality": 2}
    single = rendered(GeminiEmbeddings(http(one, "e:embedContent")))
    batch = rendered(GeminiEmbeddings(http({"requests": [one, one]}, "e:batchEmbedContents")))

    assert single["embedding"] == {"values": embed("pie", 2)}
    assert batch["embeddings"] == [single["embedding"]] * 2
    assert batch["usageMetadata"]["promptTokenCount"] >= 1


@pytest.mark.parametrize("value", [None, "", [], ["a", ""], [{}]])
def test_input_that_is_no_text_is_refused(value: Any) -> None:
    """As the provider does, with the field's name."""
    with pytest.raises(Refusal) as caught:
        OpenAIEmbeddings(http({"model": "e", "input": value}))

    assert caught.value.param == "input"


def test_more_inputs_than_the_model_takes_are_refused() -> None:
    """Qwen's newer models take ten."""
    profile = Profile(embedding_inputs_max=10)
    check_inputs(10, profile)

    with pytest.raises(Refusal):
        check_inputs(11, profile)
