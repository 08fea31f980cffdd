"""The schemas of the gateway's OpenAPI document: what stands in it of each client format. Data, no decisions.

Requests show the fields that every provider understands; answers show what clients may rely on.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def _text(about: str = "", **more: object) -> Schema:
    return {"type": "string", **({"description": about} if about else {}), **more}


def _object(required: tuple[str, ...], properties: Schema, **more: object) -> Schema:
    return {"type": "object", "required": list(required), "properties": properties, **more}


def _list(items: Schema, **more: object) -> Schema:
    return {"type": "array", "items": items, **more}


_BOOL: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_FREE: Schema = {"type": "object"}
_NULLABLE: Schema = {"type": ["string", "null"]}
_TOKENS: Schema = {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}
_SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_NAME = _text(minLength=1, maxLength=256)
_MODEL = _text("A model of GET /v1/models, an alias, or `auto`.", minLength=1, maxLength=256, examples=["auto"])
_FUNCTION = _object(("name",), {"name": _NAME, "description": _text(), "parameters": _FREE, "strict": _BOOL})

_CHAT_MESSAGE = _object(
    ("role", "content"),
    {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {
            "description": "Text, or parts of text and images.",
            "anyOf": [_text(), _list(_object(("type",), {"type": {"enum": ["text", "image_url"]}}), minItems=1)],
        },
        "tool_calls": _list(_FREE),
        "tool_call_id": _NAME,
    },
)
_CHAT_FIELDS: Schema = {
    "model": _MODEL,
    "messages": _list(_CHAT_MESSAGE, minItems=1, examples=[[{"role": "user", "content": "hello"}]]),
    "max_completion_tokens": _TOKENS,
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": _SHARE,
    "n": {"type": "integer", "minimum": 1, "maximum": 128},
    "seed": {"type": "integer"},
    "stop": {"anyOf": [_NAME, _list(_NAME, maxItems=64)]},
    "stream": _BOOL,
    "stream_options": _object((), {"include_usage": _BOOL}, description="For streams only."),
    "tools": _list(_object(("type", "function"), {"type": {"const": "function"}, "function": _FUNCTION})),
    "tool_choice": {"anyOf": [{"enum": ["auto", "none", "required"]}, _FREE]},
    "parallel_tool_calls": _BOOL,
    "response_format": _object(("type",), {"type": {"enum": ["text", "json_object", "json_schema"]}}),
    "reasoning_effort": _NAME,
    "user": _NAME,
    "task_type": _text("Where the model is `auto`: what kind of work this is.", minLength=1, maxLength=256),
}
_CHAT_USAGE = _object(
    ("prompt_tokens", "completion_tokens", "total_tokens"),
    {"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT},
)
_CHOICE = _object(("index", "message", "finish_reason"), {"index": _COUNT, "message": _FREE, "finish_reason": _text()})
_MEASURED: Schema = {"type": ["number", "null"], "description": "Null until measured."}
_MODEL_ROW = _object(
    ("id", "object", "created", "owned_by"),
    {
        "id": _text("The public name."),
        "object": {"const": "model"},
        "created": _COUNT,
        "owned_by": _text("Who trained it."),
        "kind": {"enum": ["chat", "embedding"]},
        "capabilities": _list(_text()),
        "strengths": _list(_text()),
        "best_for": _list(_text("A task type.")),
        "context_tokens": _COUNT,
        "output_tokens_max": _COUNT,
        "prices": _FREE,
        "aliases": _list(_text()),
        "health": {"enum": ["healthy", "degraded", "cooling", "unavailable"]},
        "accounts": _COUNT,
        "accounts_healthy": _COUNT,
        "providers": _list(_text()),
        "ttft_s": _MEASURED,
        "tokens_per_s": _MEASURED,
    },
)
_MESSAGES_FIELDS: Schema = {
    "model": _MODEL,
    "max_tokens": _TOKENS,
    "messages": _list(
        _object(
            ("role", "content"),
            {
                "role": {"enum": ["user", "assistant"]},
                "content": {"anyOf": [_text(), _list(_object(("type",), {"type": _text()}), minItems=1)]},
            },
        ),
        minItems=1,
        examples=[[{"role": "user", "content": "hello"}]],
    ),
    "system": {"anyOf": [_text(), _list(_FREE)]},
    "temperature": {"type": "number", "minimum": 0, "maximum": 1},
    "top_p": _SHARE,
    "stop_sequences": _list(_NAME, maxItems=64),
    "stream": _BOOL,
    "tools": _list(_object(("name", "input_schema"), {"name": _NAME, "description": _text(), "input_schema": _FREE})),
    "tool_choice": _object(("type",), {"type": {"enum": ["auto", "any", "tool", "none"]}}),
    "thinking": _FREE,
    "metadata": _object((), {"user_id": _NAME}),
}
_RESPONSES_FIELDS: Schema = {
    "model": _MODEL,
    "input": {"anyOf": [_text(minLength=1), _list(_FREE, minItems=1)], "examples": ["hello"]},
    "instructions": _text(),
    "max_output_tokens": _TOKENS,
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": _SHARE,
    "tools": _list(_object(("type", "name"), {"type": {"const": "function"}, "name": _NAME, "parameters": _FREE})),
    "tool_choice": {"anyOf": [{"enum": ["auto", "none", "required"]}, _FREE]},
    "parallel_tool_calls": _BOOL,
    "text": _FREE,
    "reasoning": _FREE,
    "stream": _BOOL,
    "store": {"const": False, "description": "Nothing is kept between calls."},
    "metadata": {"type": "object", "additionalProperties": _text()},
    "user": _NAME,
}

SCHEMAS: Schema = {
    "ChatRequest": _object(("model", "messages"), _CHAT_FIELDS),
    "AutoChatRequest": _object(("messages",), _CHAT_FIELDS),
    "ChatAnswer": _object(
        ("id", "object", "created", "model", "choices", "usage"),
        {
            "id": _text(),
            "object": {"const": "chat.completion"},
            "created": _COUNT,
            "model": _text("The model that served."),
            "choices": _list(_CHOICE, minItems=1),
            "usage": _CHAT_USAGE,
        },
    ),
    "MessagesRequest": _object(("model", "max_tokens", "messages"), _MESSAGES_FIELDS),
    "CountRequest": _object(("messages",), _MESSAGES_FIELDS),
    "CountAnswer": _object(("input_tokens",), {"input_tokens": _COUNT}),
    "MessagesAnswer": _object(
        ("id", "type", "role", "model", "content", "stop_reason", "usage"),
        {
            "id": _text(),
            "type": {"const": "message"},
            "role": {"const": "assistant"},
            "model": _text("The model that served."),
            "content": _list(_FREE),
            "stop_reason": _NULLABLE,
            "usage": _object(("input_tokens", "output_tokens"), {"input_tokens": _COUNT, "output_tokens": _COUNT}),
        },
    ),
    "ResponsesRequest": _object(("model", "input"), _RESPONSES_FIELDS),
    "ResponsesAnswer": _object(
        ("id", "object", "created_at", "status", "model", "output", "usage"),
        {
            "id": _text(),
            "object": {"const": "response"},
            "created_at": _COUNT,
            "status": {"enum": ["completed", "incomplete"]},
            "model": _text("The model that served."),
            "output": _list(_FREE),
            "usage": _FREE,
        },
    ),
    "EmbeddingsRequest": _object(
        ("model", "input"),
        {
            "model": _text("A model of kind `embedding`.", minLength=1, maxLength=256),
            "input": {"anyOf": [_text(minLength=1), _list(_text(minLength=1), minItems=1)], "examples": ["hello"]},
            "dimensions": _TOKENS,
            "encoding_format": {"enum": ["float", "base64"]},
            "user": _NAME,
        },
    ),
    "EmbeddingsAnswer": _object(
        ("object", "data", "model", "usage"),
        {"object": {"const": "list"}, "data": _list(_FREE, minItems=1), "model": _text(), "usage": _FREE},
    ),
    "Model": _MODEL_ROW,
    "ModelList": _object(("object", "data"), {"object": {"const": "list"}, "data": _list(_MODEL_ROW)}),
    "ExplainRequest": _object((), _CHAT_FIELDS, description="A chat request; everything may be left out."),
    "ExplainAnswer": _object(
        ("model", "chosen", "candidates", "excluded"),
        {
            "model": _text("As it was asked for."),
            "task_type": _NULLABLE,
            "chosen": {"type": ["object", "null"], "description": "Who would be asked first."},
            "candidates": _list(_FREE),
            "excluded": _list(_object(("reason",), {"reason": _text()})),
        },
    ),
    "OpenAIError": _object(
        ("error",),
        {
            "error": _object(
                ("message", "type", "param"),
                {
                    "message": _text("What happened, and what to do about it."),
                    "type": _text(),
                    "param": {"type": ["string", "null"], "description": "The field at fault."},
                    "code": _NULLABLE,
                },
            )
        },
        description="Errors as OpenAI's SDKs read them.",
    ),
    "AnthropicError": _object(
        ("type", "error", "request_id"),
        {
            "type": {"const": "error"},
            "error": _object(("type", "message"), {"type": _text(), "message": _text()}),
            "request_id": _text(),
        },
        description="Errors as Anthropic's SDKs read them.",
    ),
}
