"""Turns a provider's refusal into an ``UpstreamError``: whose fault it is, how long to wait, what was billed.

Pure; one table of words for every dialect, the exceptions named. Nothing of a provider's body but short identifiers
(an error code, a field name, a quota's name) leaves this module: bodies quote prompts and keys.
Sources: the providers' error pages and SDKs as of 2026-11; see docs/compatibility.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from app.domain.chat import Json
from app.domain.errors import UpstreamError, UpstreamKind
from app.providers.payload import as_list, as_object, as_text, find_count, parse_json
from app.providers.rate_headers import exhausted_reset_s, read_observations
from app.providers.retry_after import retry_after_s, should_retry

_DEAD_WORDS = frozenset(
    {
        "invalid_api_key",
        "api_key_invalid",
        "authentication_error",
        "billing_error",
        "billing_not_active",
        "billing_hard_limit_reached",
        "account_deactivated",
        "insufficient_quota",
        "insufficient_balance",
        "arrearage",
        "failed_precondition",
        "allocationquota.freetieronly",
        "access_terminated",
        "unauthenticated",
    }
)
_MISSING_WORDS = frozenset(
    {
        "model_not_found",
        "model_not_exist",
        "model_access_denied",
        "model.accessdenied",
    }
)
_LONG_WORDS = frozenset(
    {
        "context_length_exceeded",
        "exceed_context_size_error",
        "request_too_large",
    }
)
_REFUSED_WORDS = frozenset(
    {
        "content_policy_violation",
        "content_filter",
        "data_inspection_failed",
        "datainspectionfailed",
        "invalid_prompt",
        "responsibleaipolicyviolation",
        "moderation_blocked",
    }
)
_BUSY_WORDS = frozenset(
    {
        "overloaded_error",
        "api_error",
        "server_error",
        "internal_error",
        "internal",
        "unavailable",
    }
)
_LIMIT_WORDS = frozenset(
    {
        "rate_limit_error",
        "rate_limit_exceeded",
        "resource_exhausted",
        "limit_requests",
        "limit_burst_rate",
    }
)
_TIMEOUT_WORDS = frozenset(
    {
        "timeout_error",
        "deadline_exceeded",
    }
)

# Some refusals share code and status with ordinary mistakes; only their sentence tells.
_DEAD_SENTENCE = re.compile(
    r"credit balance is too low|reached your specified api usage limits|insufficient balance|api key not valid", re.I
)
_MISSING_SENTENCE = re.compile(
    r"\bmodels?\b.{0,100}(does not exist|not exist|is not found|not found|is not supported for)", re.I
)
_LONG_SENTENCE = re.compile(
    r"maximum context length|prompt is too long|input token count .{0,40}exceeds|context (length|window|size).{0,40}"
    r"exceed|exceeds? .{0,40}context (length|window|size)|range of input length|input is too long",
    re.I,
)
_REFUSED_SENTENCE = re.compile(r"content exists risk|inappropriate content", re.I)
_DAY = re.compile(r"per[ _-]?day|\((?:rpd|tpd)\)", re.I)
_NAMED_LIMIT = re.compile(r"\((rpm|tpm|rpd|tpd|ipm)\)", re.I)

_IDENTIFIER = re.compile(r"[A-Za-z0-9_.\-/\[\]]{1,120}")

_NO_ANSWER_STATUS = (408, 504)
_NEVER_GENERATED_STATUS = (503, 529)
"""Refused before anything was generated; after 500 and 502 nobody knows."""


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the body of a refusal says, read leniently."""

    words: frozenset[str]
    """Code, type and status name, in lower case."""
    code: str | None
    message: str
    param: str | None
    quota_ids: tuple[str, ...]
    retry_delay: str | None


def classify_response(
    status: int, headers: Mapping[str, str], body: bytes, *, provider: str, now_s: float
) -> UpstreamError:
    """Return the error that a response with a status other than success stands for.

    Args:
        status: HTTP status.
        headers: Names in lower case or case-insensitive.
        body: As far as it could be read; may be anything.
        provider: The provider's name, for the message and for words that only it uses otherwise.
        now_s: Wall clock, seconds since the epoch.
    """
    try:
        facts = _read(parse_json(body))
    except ValueError:
        facts = _read(None)
    kind = _kind(status, facts, provider, should_retry(headers))
    wait_s = retry_after_s(headers, now_s=now_s, retry_delay=facts.retry_delay, message=facts.message)
    if wait_s is None and kind is UpstreamKind.MINUTE_LIMIT:
        wait_s = exhausted_reset_s(read_observations(headers, now_s=now_s))
    error = UpstreamError(
        _message(provider, kind, facts, status),
        kind=kind,
        status=status,
        retry_after_s=wait_s,
        quota_id=_quota_id(kind, facts),
        billed=False if (status < 500 and status != 408) or status in _NEVER_GENERATED_STATUS else None,
    )
    error.param = facts.param
    return error


def classify_event(body: Json, *, provider: str, began: bool) -> UpstreamError:
    """Return the error that an error body after HTTP 200 stands for.

    Args:
        body: The event's or body's JSON.
        provider: As in ``classify_response``.
        began: Whether part of the answer had come; then it was billed in part.
    """
    facts = _read(body)
    status = find_count(_error_of(body).get("code"))
    if status is not None and not 400 <= status < 600:
        status = None
    kind = _kind(status, facts, provider, None)
    error = UpstreamError(
        _message(provider, kind, facts, None) + (" after its answer had begun" if began else ""),
        kind=kind,
        status=status,
        retry_after_s=retry_after_s({}, now_s=0.0, retry_delay=facts.retry_delay, message=facts.message),
        quota_id=_quota_id(kind, facts),
        billed=True if began else None,
    )
    error.param = facts.param
    return error


def has_error(body: Json) -> bool:
    """Tell whether a JSON body or event is an error object of any dialect."""
    if isinstance(body, list):
        return bool(body) and has_error(body[0])
    fields = as_object(body)
    return bool(fields.get("error")) or fields.get("type") == "error"


def garbage(provider: str, what: str, *, billed: bool | None, status: int | None = None) -> UpstreamError:
    """Return the error for an answer that does not speak the protocol; ``what`` completes "provider …"."""
    return UpstreamError(f"{provider} {what}", kind=UpstreamKind.GARBAGE, status=status, billed=billed)


def _kind(status: int | None, facts: _Facts, provider: str, retry: bool | None) -> UpstreamKind:
    kind = _kind_by_word(status, facts, provider)
    if kind is None and status is not None:
        kind = _kind_by_status(status, facts, retry)
    return kind or UpstreamKind.OVERLOADED


def _kind_by_word(status: int | None, facts: _Facts, provider: str) -> UpstreamKind | None:
    words, message = facts.words, facts.message
    mistake = status is None or 400 <= status < 500
    throttled = status == 429
    if throttled and provider == "qwen" and "insufficient_quota" in words:
        # DashScope's word for its throughput quota; its accounts in debt say Arrearage.
        return _limit_kind(facts)
    if words & _DEAD_WORDS or (mistake and not throttled and _DEAD_SENTENCE.search(message)):
        return UpstreamKind.DEAD_KEY
    if words & _MISSING_WORDS or (status in (400, 403, 404) and _MISSING_SENTENCE.search(message)):
        return UpstreamKind.MODEL_MISSING
    if words & _LONG_WORDS or status == 413 or (mistake and not throttled and _LONG_SENTENCE.search(message)):
        return UpstreamKind.TOO_LONG
    if words & _REFUSED_WORDS or (mistake and not throttled and _REFUSED_SENTENCE.search(message)):
        return UpstreamKind.REFUSED
    if status is None:
        return _kind_of_event(facts)
    return None


def _kind_of_event(facts: _Facts) -> UpstreamKind | None:
    if facts.words & _LIMIT_WORDS:
        return _limit_kind(facts)
    if facts.words & _TIMEOUT_WORDS:
        return UpstreamKind.TIMEOUT
    if facts.words & _BUSY_WORDS:
        return UpstreamKind.OVERLOADED
    if facts.words & {"invalid_request_error", "invalid_argument", "not_found_error"}:
        return UpstreamKind.INVALID_REQUEST
    return None


def _kind_by_status(status: int, facts: _Facts, retry: bool | None) -> UpstreamKind:
    if status in (401, 402, 403):
        return UpstreamKind.DEAD_KEY
    if status == 404:
        return UpstreamKind.MODEL_MISSING
    if status == 429:
        return _limit_kind(facts)
    if status in _NO_ANSWER_STATUS:
        return UpstreamKind.TIMEOUT
    if status >= 500 or status == 409:
        return UpstreamKind.OVERLOADED
    if status < 400:
        return UpstreamKind.GARBAGE
    return UpstreamKind.OVERLOADED if retry else UpstreamKind.INVALID_REQUEST


def _limit_kind(facts: _Facts) -> UpstreamKind:
    # By the quota's name first: Gemini's retryDelay of a day's quota may say 25 s or 18 h.
    if facts.quota_ids:
        day = any(_DAY.search(quota_id) for quota_id in facts.quota_ids)
    else:
        day = bool(_DAY.search(facts.message))
    return UpstreamKind.DAY_LIMIT if day else UpstreamKind.MINUTE_LIMIT


def _quota_id(kind: UpstreamKind, facts: _Facts) -> str | None:
    if kind not in (UpstreamKind.MINUTE_LIMIT, UpstreamKind.DAY_LIMIT):
        return None
    days = [quota_id for quota_id in facts.quota_ids if _DAY.search(quota_id)]
    if facts.quota_ids:
        return (days or list(facts.quota_ids))[0]
    named = _NAMED_LIMIT.search(facts.message)
    return named.group(1).lower() if named else None


def _error_of(body: Json) -> dict[str, Json]:
    if isinstance(body, list):
        # Gemini wraps errors of a stream in an array.
        body = body[0] if body else None
    fields = as_object(body)
    error = fields.get("error")
    if isinstance(error, str):
        return {"message": error, **{name: value for name, value in fields.items() if name != "error"}}
    return as_object(error) or fields


def _read(body: Json) -> _Facts:
    error = _error_of(body)
    words = {as_text(error.get(name)).lower() for name in ("code", "type", "status")}
    quota_ids: list[str] = []
    retry_delay = None
    for detail in map(as_object, as_list(error.get("details"))):
        words.add(as_text(detail.get("reason")).lower())
        retry_delay = as_text(detail.get("retryDelay")) or retry_delay
        for violation in map(as_object, as_list(detail.get("violations"))):
            quota_ids.append(as_text(violation.get("quotaId")))
    code = as_text(error.get("code")) or as_text(error.get("type")) or as_text(error.get("status"))
    return _Facts(
        words=frozenset(words - {""}),
        code=_identifier(code),
        message=as_text(error.get("message"))[:4_000],
        param=_identifier(as_text(error.get("param"))),
        quota_ids=tuple(found for quota_id in quota_ids if (found := _identifier(quota_id))),
        retry_delay=retry_delay,
    )


def _identifier(text: str) -> str | None:
    return text if _IDENTIFIER.fullmatch(text) else None


_SENTENCES = {
    UpstreamKind.DEAD_KEY: "refuses the key or its account: check the key, its permissions and its balance",
    UpstreamKind.MINUTE_LIMIT: "says that a rate limit is reached",
    UpstreamKind.DAY_LIMIT: "says that the day's quota is used up",
    UpstreamKind.OVERLOADED: "is in trouble",
    UpstreamKind.TIMEOUT: "gave up waiting for its own answer",
    UpstreamKind.INVALID_REQUEST: "refuses the request as invalid",
    UpstreamKind.TOO_LONG: "says that the request is too long for the model",
    UpstreamKind.MODEL_MISSING: "does not serve the model: check its name and base_url",
    UpstreamKind.REFUSED: "refuses the content",
    UpstreamKind.GARBAGE: "answers with a redirect: check base_url",
}


def _message(provider: str, kind: UpstreamKind, facts: _Facts, status: int | None) -> str:
    seen = [f"HTTP {status}"] if status is not None else []
    seen += [facts.code] if facts.code else []
    return f"{provider} {_SENTENCES[kind]}" + (f" ({', '.join(seen)})" if seen else "")
