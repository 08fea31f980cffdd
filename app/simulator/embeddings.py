"""Embeddings in OpenAI's and Gemini's format: unit vectors made from the words of a text.

Texts that share words have similar vectors, so retrieval can be rehearsed too.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import struct

import orjson
from pydantic import JsonValue

from app.simulator.config import Profile
from app.simulator.exchange import ChatRequest, HttpRequest, Plan, Refusal, json_body
from app.simulator.json_reading import JsonObject, in_camel_case, object_at, objects_in, positive_int, text_of

_TERM = re.compile(r"\w+")


def embed(text: str, dimensions: int) -> list[float]:
    """Return a unit vector: each word adds to eight places that its hash decides."""
    vector = [0.0] * dimensions
    for word in _TERM.findall(text.lower()) or [text]:
        digest = hashlib.blake2b(word.encode(errors="replace"), digest_size=32).digest()
        for place in struct.unpack("<8I", digest):
            vector[place % dimensions] += 1.0 if place & 0x8000_0000 else -1.0
    length = math.sqrt(sum(value * value for value in vector))
    if length == 0:
        vector[0] = length = 1.0
    return [value / length for value in vector]


class OpenAIEmbeddings:
    """``POST /v1/embeddings``."""

    def __init__(self, http: HttpRequest) -> None:
        body = json_body(http.raw)
        model = text_of(body.get("model"))
        if model is None:
            raise Refusal("invalid", "you must provide a model parameter", param="model")
        self.inputs = _inputs(body.get("input"))
        self._base64 = body.get("encoding_format") == "base64"
        self._dimensions = positive_int(body.get("dimensions"))
        text = "\n".join(self.inputs)
        self.request = ChatRequest(format="openai", model=model, text=text, last_text=text)

    def render(self, plan: Plan) -> bytes:
        """Return the list of vectors."""
        dimensions = self._dimensions or plan.profile.embedding_dimensions
        data: list[JsonValue] = []
        for index, text in enumerate(self.inputs):
            vector = embed(text, dimensions)
            shown: JsonValue = [*vector]
            if self._base64:
                shown = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode()
            data.append({"object": "embedding", "index": index, "embedding": shown})
        tokens = plan.request.input_tokens
        usage: JsonObject = {"prompt_tokens": tokens, "total_tokens": tokens}
        return orjson.dumps({"object": "list", "data": data, "model": plan.request.model, "usage": usage})


class GeminiEmbeddings:
    """``:embedContent`` and ``:batchEmbedContents``."""

    def __init__(self, http: HttpRequest) -> None:
        model, _, verb = (http.path_model or "").rpartition(":")
        body = object_at(in_camel_case(json_body(http.raw)))
        self._batch = verb == "batchEmbedContents"
        requests = objects_in(body.get("requests")) if self._batch else [body]
        if not requests:
            raise Refusal("invalid", "* BatchEmbedContentsRequest.requests: requests is not specified")
        self.inputs = [_content_text(request) for request in requests]
        self._dimensions = [
            positive_int(request.get("outputDimensionality"))
            or positive_int(object_at(request, "embedContentConfig").get("outputDimensionality"))
            for request in requests
        ]
        text = "\n".join(self.inputs)
        self.request = ChatRequest(format="gemini", model=model, text=text, last_text=text)

    def render(self, plan: Plan) -> bytes:
        """Return one vector, or the list of them."""
        usual = plan.profile.embedding_dimensions
        made: list[JsonValue] = [
            {"values": [*embed(text, wanted or usual)]}
            for text, wanted in zip(self.inputs, self._dimensions, strict=True)
        ]
        told: JsonObject = {"promptTokenCount": plan.request.input_tokens}
        if self._batch:
            return orjson.dumps({"embeddings": made, "usageMetadata": told})
        return orjson.dumps({"embedding": made[0], "usageMetadata": told})


def check_inputs(count: int, profile: Profile) -> None:
    """Refuse more inputs than the model takes in one call."""
    most = profile.embedding_inputs_max
    if most is not None and count > most:
        raise Refusal("invalid", f"batch size is invalid, it should not be larger than {most}.", param="input")


def _inputs(value: JsonValue) -> list[str]:
    """Return the texts; an array of token numbers counts as its numbers written out."""
    if isinstance(value, str) and value:
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(item, int) for item in value):
            return [" ".join(map(str, value))]
        texts = [item if isinstance(item, str) else " ".join(map(str, item)) for item in value
                 if isinstance(item, str | list)]  # fmt: skip
        if len(texts) == len(value) and all(texts):
            return texts
    raise Refusal("invalid", "'input' must be a string or a list of strings, none of them empty.", param="input")


def _content_text(request: JsonObject) -> str:
    parts = objects_in(object_at(request, "content").get("parts"))
    return "\n".join(str(part["text"]) for part in parts if isinstance(part.get("text"), str))
