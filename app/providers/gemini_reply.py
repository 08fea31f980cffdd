"""Reads generateContent answers: whole ones, and streams of them.

Pure. Usage traps: ``candidatesTokenCount`` excludes thoughts, we include them; ``promptTokenCount`` includes cached
tokens and excludes what tools put in; a stream repeats the counts cumulatively and has no end marker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from app.domain.chat import ChatDelta, ChatRequest, ChatResult, FinishReason, Json, ToolCall, Usage
from app.providers.classify import classify_event, garbage, has_error
from app.providers.payload import as_count, as_list, as_object, as_text, dump_json, find_count, find_text, parse_json
from app.providers.sse import SseEvent
from app.providers.wire import estimated_usage, refuse_blank

SIGNATURE_PREFIX = "gemini:"
"""Marks a text part's signature as ours to send back: Anthropic's travel in the same field."""

_FINISH = {"STOP": FinishReason.STOP, "MAX_TOKENS": FinishReason.LENGTH}
_FILTERED = frozenset(
    (
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "MODEL_ARMOR",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
    )
)
_BROKEN = frozenset(
    (
        "MALFORMED_FUNCTION_CALL",
        "MALFORMED_RESPONSE",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
        "MISSING_THOUGHT_SIGNATURE",
    )
)
"""The model wrote what its own protocol does not allow."""


def decode(body: Json, request: ChatRequest, provider: str) -> ChatResult:
    """Return the answer in a GenerateContentResponse.

    Raises:
        UpstreamError: GARBAGE.
    """
    fields = as_object(body)
    candidates = [as_object(candidate) for candidate in as_list(fields.get("candidates"))]
    blocked = _blocked(fields)
    if not candidates and blocked is None:
        raise garbage(provider, "sent an answer without candidates", billed=None)
    results = [_candidate(candidate, provider) for candidate in candidates]
    if not results:
        results = [ChatResult(text="", finish_reason=FinishReason.CONTENT_FILTER, refusal=blocked)]
    texts = [part for result in results for part in (result.text, result.reasoning or "")]
    first = replace(
        results[0],
        usage=read_usage(fields.get("usageMetadata")) or estimated_usage(request, *texts),
        model=as_text(fields.get("modelVersion")),
        provider_id=find_text(fields.get("responseId")),
        other_choices=tuple(results[1:]),
    )
    return refuse_blank(first, request, provider)


def read_usage(value: Json) -> Usage | None:
    """Return ``usageMetadata`` under our definition; None where there is none."""
    usage = as_object(value)
    prompt = find_count(usage.get("promptTokenCount"))
    if prompt is None:
        return None
    thoughts = as_count(usage.get("thoughtsTokenCount"))
    prompt += as_count(usage.get("toolUsePromptTokenCount"))
    return Usage(
        input_tokens=prompt,
        output_tokens=as_count(usage.get("candidatesTokenCount")) + thoughts,
        cache_read_tokens=min(as_count(usage.get("cachedContentTokenCount")), prompt),
        reasoning_tokens=thoughts,
    )


def read_finish(name: str, provider: str, *, has_tools: bool) -> FinishReason:
    """Return the finish reason; raises UpstreamError (GARBAGE) where the model broke its own protocol."""
    if name in _BROKEN:
        raise garbage(provider, f"ended its answer with {name}", billed=True)
    if name in _FILTERED:
        return FinishReason.CONTENT_FILTER
    finish = _FINISH.get(name, FinishReason.STOP)
    return FinishReason.TOOL_CALLS if has_tools and finish is FinishReason.STOP else finish


def _blocked(body: dict[str, Json]) -> str | None:
    reason = find_text(as_object(body.get("promptFeedback")).get("blockReason"))
    return None if reason in (None, "BLOCKED_REASON_UNSPECIFIED") else f"the prompt was blocked: {reason}"


def _candidate(candidate: dict[str, Json], provider: str) -> ChatResult:
    parts = [as_object(part) for part in as_list(as_object(candidate.get("content")).get("parts"))]
    calls = [part for part in parts if "functionCall" in part]
    thoughts = "".join(as_text(part.get("text")) for part in parts if part.get("thought"))
    finish = as_text(candidate.get("finishReason"))
    signatures = [
        found for part in parts if "functionCall" not in part and (found := find_text(part.get("thoughtSignature")))
    ]
    return ChatResult(
        text="".join(as_text(part.get("text")) for part in parts if not part.get("thought")),
        reasoning=thoughts or None,
        reasoning_signature=SIGNATURE_PREFIX + signatures[-1] if signatures else None,
        tool_calls=tuple(_tool_call(index, part) for index, part in enumerate(calls)),
        finish_reason=read_finish(finish, provider, has_tools=bool(calls)),
        refusal=f"the answer was blocked: {finish}" if finish in _FILTERED else None,
    )


def _tool_call(index: int, part: dict[str, Json]) -> ToolCall:
    call = as_object(part.get("functionCall"))
    return ToolCall(
        id=find_text(call.get("id")) or f"call_{index}",
        name=as_text(call.get("name")),
        arguments=dump_json(as_object(call.get("args"))),
        signature=find_text(part.get("thoughtSignature")),
    )


class GeminiStream:
    """Decodes one stream of GenerateContentResponse objects; implements ``wire.StreamDecoder``. Not thread-safe."""

    def __init__(self, request: ChatRequest, provider: str) -> None:
        self.began = False
        self._request = request
        self._provider = provider
        self._finish: dict[int, str] = {}
        self._tools: dict[int, int] = {}
        """Number of calls so far, by choice."""
        self._usage: Usage | None = None
        self._signature: str | None = None
        self._blocked: str | None = None
        self._model: str | None = None
        self._id: str | None = None
        self._texts: list[str] = []
        self._thoughts: list[str] = []

    @property
    def complete(self) -> bool:
        """True once every candidate has its finish reason, or the prompt was blocked."""
        return self._blocked is not None or len(self._finish) >= self._request.choices

    @property
    def finished(self) -> bool:
        """False: nothing marks the end of the stream."""
        return False

    def feed(self, event: SseEvent) -> Sequence[ChatDelta]:
        """See ``wire.StreamDecoder``."""
        if not event.data.strip():
            return ()
        body = parse_json(event.data)
        if has_error(body):
            raise classify_event(body, provider=self._provider, began=self.began)
        fields = as_object(body)
        self._usage = read_usage(fields.get("usageMetadata")) or self._usage
        self._model = find_text(fields.get("modelVersion")) or self._model
        self._id = find_text(fields.get("responseId")) or self._id
        self._blocked = _blocked(fields) or self._blocked
        deltas: list[ChatDelta] = []
        for candidate in map(as_object, as_list(fields.get("candidates"))):
            deltas += self._candidate(candidate)
        self.began = self.began or bool(deltas)
        return deltas

    def end(self) -> ChatDelta:
        """See ``wire.StreamDecoder``."""
        finish = self._finish_of(0)
        text, thought = "".join(self._texts), "".join(self._thoughts)
        if not self._tools:
            refuse_blank(ChatResult(text=text, reasoning=thought, finish_reason=finish), self._request, self._provider)
        return ChatDelta(
            finish_reason=finish,
            usage=self._usage or estimated_usage(self._request, text, thought),
            reasoning_signature=self._signature,
            model=self._model,
            provider_id=self._id,
        )

    def _finish_of(self, choice: int) -> FinishReason:
        if self._blocked is not None:
            return FinishReason.CONTENT_FILTER
        return read_finish(self._finish.get(choice, ""), self._provider, has_tools=choice in self._tools)

    def _candidate(self, candidate: dict[str, Json]) -> list[ChatDelta]:
        choice = as_count(candidate.get("index"))
        deltas: list[ChatDelta] = []
        for part in map(as_object, as_list(as_object(candidate.get("content")).get("parts"))):
            deltas += self._part(choice, part)
        finish = find_text(candidate.get("finishReason"))
        if finish is not None and finish != "FINISH_REASON_UNSPECIFIED":
            self._finish[choice] = finish
            reason = self._finish_of(choice)
            if choice > 0:
                deltas.append(ChatDelta(finish_reason=reason, choice=choice))
        return deltas

    def _part(self, choice: int, part: dict[str, Json]) -> list[ChatDelta]:
        signature = find_text(part.get("thoughtSignature"))
        if "functionCall" in part:
            index = self._tools.get(choice, 0)
            self._tools[choice] = index + 1
            call = _tool_call(index, part)
            return [
                ChatDelta(
                    tool_index=index,
                    tool_id=call.id,
                    tool_name=call.name,
                    tool_arguments=call.arguments,
                    tool_signature=call.signature,
                    choice=choice,
                )
            ]
        if signature is not None and choice == 0:
            # May come in a part without any text.
            self._signature = SIGNATURE_PREFIX + signature
        text = as_text(part.get("text"))
        if not text:
            return []
        if part.get("thought"):
            self._thoughts.append(text)
            return [ChatDelta(reasoning=text, choice=choice)]
        self._texts.append(text)
        return [ChatDelta(text=text, choice=choice)]
