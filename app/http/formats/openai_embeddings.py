"""OpenAI's embeddings as a client format: reads the body, writes the list of vectors.

Pure: no HTTP, no clock. Null counts as not set. Arrays of token numbers are refused: only one vendor's
models know what they mean. Fields that OpenAI does not know are passed on in ``EmbeddingRequest.extra``.

Source: openai-python's ``embedding_create_params`` and ``CreateEmbeddingResponse``, as of 2026-11.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NoReturn

from app.domain.chat import Json
from app.domain.gateway import EmbeddingRequest, EmbeddingResult, Served
from app.http.formats import openai_chat_reply
from app.http.formats.openai_chat_fields import find_count, find_name, json_text, refuse, wrong_type

INPUTS_MAX = 2_048
DIMENSIONS_MAX = 65_536

_KNOWN = frozenset(("model", "input", "dimensions", "encoding_format", "user"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedEmbedding:
    """One call as the parser understood it."""

    request: EmbeddingRequest
    """``request.model`` is what the client wrote; empty where it wrote nothing."""
    encoding: Literal["float", "base64"] = "float"


class OpenAIEmbeddings:
    """Speaks ``POST /v1/embeddings``. Holds no state of a call."""

    def parse(self, body: Mapping[str, Json]) -> AskedEmbedding:
        """Read a request.

        Raises:
            RequestError: a field is missing or wrong; ``param`` names it as the client wrote it.
        """
        encoding = body.get("encoding_format")
        if encoding not in (None, "float", "base64"):
            refuse("encoding_format", "there is no such encoding", "use float or base64")
        extra = [
            (name, json_text(value, name)) for name, value in body.items() if name not in _KNOWN and value is not None
        ]
        request = EmbeddingRequest(
            model=find_name(body, "model") or "",
            inputs=_inputs(body.get("input")),
            dimensions=find_count(body, "dimensions", least=1, most=DIMENSIONS_MAX),
            user=find_name(body, "user"),
            extra=tuple(extra),
        )
        return AskedEmbedding(request=request, encoding="base64" if encoding == "base64" else "float")

    def render(self, result: EmbeddingResult, asked: AskedEmbedding, served: Served) -> dict[str, Json]:
        """Write the answer."""
        packed = asked.encoding == "base64"
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": _packed(vector) if packed else list(vector)}
                for index, vector in enumerate(result.vectors)
            ],
            "model": served.model,
            "usage": {"prompt_tokens": result.input_tokens, "total_tokens": result.input_tokens},
        }

    def error(self, status: int, kind: str, message: str, *, param: str | None, request_id: str) -> dict[str, Json]:
        """Write an error; as ``base.ClientFormat``. OpenAI has one shape of errors for all its doors."""
        return openai_chat_reply.error_body(status, kind, message, param)


def _inputs(value: Json) -> tuple[str, ...]:
    if isinstance(value, str):
        return (_text(value, "input"),)
    if not isinstance(value, list):
        wrong_type("input", value, "a string or a list of strings")
    if not value or len(value) > INPUTS_MAX:
        refuse("input", f"there are {len(value)} inputs", f"send 1 to {INPUTS_MAX}")
    if isinstance(value[0], int) and not isinstance(value[0], bool):
        _refuse_tokens("input")
    return tuple([_text(item, f"input[{index}]") for index, item in enumerate(value)])


def _text(value: Json, param: str) -> str:
    if isinstance(value, list):
        _refuse_tokens(param)
    if not isinstance(value, str) or not value:
        wrong_type(param, value, "a non-empty string")
    return value


def _refuse_tokens(param: str) -> NoReturn:
    remedy = "send text; LangChain does with check_embedding_ctx_length=False"
    refuse(param, "token numbers mean something to one vendor's models only", remedy)


def _packed(vector: tuple[float, ...]) -> str:
    """Return a vector as the SDKs unpack it: base64 of little-endian 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
