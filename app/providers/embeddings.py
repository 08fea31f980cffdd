"""Embeddings as the providers that offer them want them asked: OpenAI's format, and Gemini's.

Translates and never does; ``http_adapter`` sends. One request asks for all inputs: more than the provider takes in one
call are refused, never split, so that one call stays one upstream attempt. Vectors are passed on as they come; Gemini's
are not of unit length where fewer dimensions than usual are asked for.

Source: the providers' API references, as of 2026-11.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import quote

from app.domain.accounts import Provider
from app.domain.chat import Json
from app.domain.errors import RequestError, UpstreamError
from app.domain.estimate import text_tokens
from app.domain.gateway import EmbeddingRequest, EmbeddingResult
from app.providers.classify import garbage
from app.providers.http_client import WireCall
from app.providers.payload import as_count, as_list, as_object, as_text, dump_json, find_count, parse_json

_OPENAI_INPUTS_MAX = 2_048
_GEMINI_INPUTS_MAX = 100
_QWEN_INPUTS_MAX = 25
_QWEN_NEW_INPUTS_MAX = 10
_QWEN_NEW = ("text-embedding-v3", "text-embedding-v4")
_FLOAT_BYTES = 4
_FLOAT_MAX = 3.4e38
"""What fits into 32 bits, in which clients may want it."""


class EmbeddingWire(Protocol):
    """One provider's format of embeddings for one account."""

    def encode(self, request: EmbeddingRequest) -> WireCall:
        """Return the HTTP request; raises RequestError naming the field that cannot be translated."""

    def decode(self, body: Json, request: EmbeddingRequest) -> EmbeddingResult:
        """Return the vectors in a success body; raises UpstreamError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIEmbeddings:
    """``POST /embeddings``, as OpenAI, Qwen and compatible servers speak it; implements ``EmbeddingWire``."""

    provider: str
    url: str
    """Base address."""
    headers: Mapping[str, str] = field(repr=False)

    def encode(self, request: EmbeddingRequest) -> WireCall:
        """See ``EmbeddingWire``."""
        _check(request, self._inputs_max(request.model), self.provider)
        body: dict[str, Json] = {
            "model": request.model,
            "input": list(request.inputs),
            # Some compatible servers know no other.
            "encoding_format": "float",
        }
        if request.dimensions is not None:
            body["dimensions"] = request.dimensions
        if request.user is not None:
            body["user"] = request.user
        return WireCall(url=f"{self.url}/embeddings", headers=self.headers, body=_with_extra(body, request))

    def decode(self, body: Json, request: EmbeddingRequest) -> EmbeddingResult:
        """See ``EmbeddingWire``."""
        fields = as_object(body)
        rows = sorted(map(as_object, as_list(fields.get("data"))), key=lambda row: as_count(row.get("index")))
        usage = as_object(fields.get("usage"))
        return _result(
            [row.get("embedding") for row in rows],
            find_count(usage.get("prompt_tokens")),
            request,
            provider=self.provider,
            model=as_text(fields.get("model")),
        )

    def _inputs_max(self, model: str) -> int:
        if self.provider != Provider.QWEN.value:
            return _OPENAI_INPUTS_MAX
        return _QWEN_NEW_INPUTS_MAX if model.startswith(_QWEN_NEW) else _QWEN_INPUTS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class GeminiEmbeddings:
    """``:embedContent`` for one text, ``:batchEmbedContents`` for several; implements ``EmbeddingWire``."""

    provider: str
    url: str
    """Base address, version included."""
    headers: Mapping[str, str] = field(repr=False)

    def encode(self, request: EmbeddingRequest) -> WireCall:
        """See ``EmbeddingWire``. Provider-specific fields (``taskType``, ``title``) go with every text."""
        _check(request, _GEMINI_INPUTS_MAX, self.provider)
        if request.user is not None:
            raise RequestError(
                f"user cannot be translated for {self.provider}",
                param="user",
                remedy="leave it out, or use another model",
            )
        folder, _slash, name = request.model.rpartition("/")
        path = f"{quote(folder or 'models', safe='')}/{quote(name, safe='')}"
        asked = [self._one(text, f"{folder or 'models'}/{name}", request) for text in request.inputs]
        if len(asked) == 1:
            return WireCall(url=f"{self.url}/{path}:embedContent", headers=self.headers, body=_bytes(asked[0]))
        requests: dict[str, Json] = {"requests": [*asked]}
        return WireCall(url=f"{self.url}/{path}:batchEmbedContents", headers=self.headers, body=_bytes(requests))

    def decode(self, body: Json, request: EmbeddingRequest) -> EmbeddingResult:
        """See ``EmbeddingWire``."""
        fields = as_object(body)
        rows = as_list(fields.get("embeddings")) if len(request.inputs) > 1 else [fields.get("embedding")]
        usage = as_object(fields.get("usageMetadata"))
        return _result(
            [as_object(row).get("values") for row in rows],
            find_count(usage.get("promptTokenCount")),
            request,
            provider=self.provider,
            model=request.model,
        )

    def _one(self, text: str, model: str, request: EmbeddingRequest) -> dict[str, Json]:
        one: dict[str, Json] = {"model": model, "content": {"parts": [{"text": text}]}}
        if request.dimensions is not None:
            one["outputDimensionality"] = request.dimensions
        _add_extra(one, request)
        return one


def no_embeddings(model: str, provider: str) -> RequestError:
    """Return the refusal of a provider that has no embeddings."""
    return RequestError(
        f"{provider} has no embeddings, so {model!r} cannot embed",
        param="model",
        remedy="name an embedding model of openai, gemini, qwen or a compatible server",
    )


def _check(request: EmbeddingRequest, inputs_max: int, provider: str) -> None:
    if not request.inputs:
        raise RequestError("there is no input", param="input", remedy="send at least one text")
    for index, text in enumerate(request.inputs):
        if not text:
            raise RequestError("there is nothing to embed", param=f"input[{index}]", remedy="send a text")
    if len(request.inputs) > inputs_max:
        raise RequestError(
            f"{provider} takes {inputs_max} inputs of {request.model!r} in one call, not {len(request.inputs)}",
            param="input",
            remedy="send several calls",
        )


def _result(
    values: list[Json], input_tokens: int | None, request: EmbeddingRequest, *, provider: str, model: str
) -> EmbeddingResult:
    if len(values) != len(request.inputs):
        raise garbage(provider, f"sent {len(values)} vectors for {len(request.inputs)} inputs", billed=True)
    vectors = tuple([_vector(value, provider) for value in values])
    if input_tokens is None:
        return EmbeddingResult(
            vectors=vectors, input_tokens=sum(map(text_tokens, request.inputs)), model=model, source="estimated"
        )
    return EmbeddingResult(vectors=vectors, input_tokens=input_tokens, model=model)


def _vector(value: Json, provider: str) -> tuple[float, ...]:
    if isinstance(value, str):
        return _packed(value, provider)
    numbers = as_list(value)
    vector = tuple([number for number in numbers if type(number) is float or type(number) is int])
    if not vector or len(vector) != len(numbers) or max(vector) > _FLOAT_MAX or min(vector) < -_FLOAT_MAX:
        raise _no_vector(provider)
    return vector


def _packed(value: str, provider: str) -> tuple[float, ...]:
    """Return a vector that came as base64 although floats were asked for."""
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise _no_vector(provider) from None
    count, rest = divmod(len(data), _FLOAT_BYTES)
    vector: tuple[float, ...] = () if rest else struct.unpack(f"<{count}f", data)
    if not vector or not all(map(math.isfinite, vector)):
        raise _no_vector(provider)
    return vector


def _no_vector(provider: str) -> UpstreamError:
    return garbage(provider, "sent a vector that is none", billed=True)


def _with_extra(body: dict[str, Json], request: EmbeddingRequest) -> bytes:
    _add_extra(body, request)
    return _bytes(body)


def _add_extra(body: dict[str, Json], request: EmbeddingRequest) -> None:
    for name, text in request.extra:
        if name in body:
            raise RequestError(f"extra field {name!r} contradicts the request", param=name)
        try:
            body[name] = parse_json(text)
        except ValueError:
            raise RequestError(f"extra field {name!r} is not JSON", param=name) from None


def _bytes(body: dict[str, Json]) -> bytes:
    return dump_json(body).encode()
