"""One tree of errors, sorted by who must act; each class says what a second attempt is worth.

    GatewayError
    ├── RequestError            the caller must change something              Retry.NEVER
    │   ├── ConfigurationError  the operator must change the configuration
    │   ├── NotFoundError       no such run, account or model
    │   ├── ConflictError       the thing is not in a state that allows this
    │   │   └── RunTakenError   another conductor has the run by now
    │   ├── TokenBudgetError    the run's own ceiling of tokens leaves no room for this call
    │   ├── AccessError         no valid key, or one that may not do this
    │   └── QuotaError          the caller's own limit is used up (.limit, .retry_after_s)
    ├── UpstreamError           a provider failed (.account, .kind)           by kind
    │   ├── CallLostError       the account's actor died during the call; billed or not is unknown
    │   └── NoAnswerError       the provider took the call, and has no answer to it any more
    └── InternalError           we failed                                     Retry.LATER
        ├── CapacityError       every account is busy, cooling or full (.retry_after_s)
        ├── DeadlineError       the time given for this is over
        └── CancelledError      the owner withdrew the work

Does not know HTTP: status codes and wire types come from one table, ``app/http/errors.py``. Every class pickles with
all its fields, because Ray turns one that does not into ``UnserializableException``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Retry(StrEnum):
    """What a second attempt is worth."""

    NEVER = "never"
    """The same request fails again, anywhere."""
    ELSEWHERE = "elsewhere"
    """Another account or provider may serve it at once."""
    LATER = "later"
    """The same place may serve it after a pause."""


class UpstreamKind(StrEnum):
    """How a provider call failed, normalised over all providers."""

    DEAD_KEY = "dead_key"
    """The key is refused or out of money until a person acts: park it, never retry it."""
    MINUTE_LIMIT = "minute_limit"
    DAY_LIMIT = "day_limit"
    OVERLOADED = "overloaded"
    """The provider is in trouble (500, 503, 529), not the key."""
    TIMEOUT = "timeout"
    """No (complete) answer in time; whether it was billed is unknown."""
    CONNECTION = "connection"
    """The connection failed before the request was certainly received; not billed."""
    CUT = "cut"
    """The answer broke off after it had begun; billed in part."""
    INVALID_REQUEST = "invalid_request"
    """The provider refuses this request as such: never retry."""
    TOO_LONG = "too_long"
    """The request exceeds this model's context: another model may take it."""
    MODEL_MISSING = "model_missing"
    """This account does not serve the model."""
    REFUSED = "refused"
    """The provider refused the content."""
    GARBAGE = "garbage"
    """A success status with a body that does not speak the protocol, or a blank answer."""


_RETRY_OF_KIND = {
    UpstreamKind.INVALID_REQUEST: Retry.NEVER,
    UpstreamKind.REFUSED: Retry.NEVER,
}


class GatewayError(Exception):
    """Base of every error that Tutti raises on purpose.

    Args:
        message: What happened, the value with ``!r``, what to do. No secrets, prompts or provider bodies.
        param: The field that is at fault, if one is.
        remedy: What the reader can do about it.
    """

    retry: Retry = Retry.NEVER

    def __init__(self, message: str, *, param: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.remedy = remedy

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions with keyword-only fields do not survive pickling by the default protocol.
        return (_rebuild, (type(self), self.args, self.__dict__.copy()))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == getattr(other, "__dict__", None)

    def __hash__(self) -> int:
        return hash((type(self), self.message))


def _rebuild(cls: type[GatewayError], args: tuple[Any, ...], fields: dict[str, Any]) -> GatewayError:
    error = cls.__new__(cls)
    Exception.__init__(error, *args)
    error.__dict__.update(fields)
    return error


class RequestError(GatewayError):
    """The caller must change something; the same request fails again."""


class ConfigurationError(RequestError):
    """The configuration is wrong; ``line`` is the line in its file, from 1, where known."""

    def __init__(
        self, message: str, *, param: str | None = None, remedy: str | None = None, line: int | None = None
    ) -> None:
        super().__init__(message, param=param, remedy=remedy)
        self.line = line


class NotFoundError(RequestError):
    """No such run, account or model."""


class ConflictError(RequestError):
    """The thing exists but is not in a state that allows this."""


class RunTakenError(ConflictError):
    """Another conductor has the run by now: what this one still wants to write of it is void."""


class TokenBudgetError(RequestError):
    """The run's own ceiling of tokens leaves no room for this call."""


class AccessError(RequestError):
    """No valid key (``known`` is False), or one that may not do this."""

    def __init__(self, message: str, *, known: bool, param: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message, param=param, remedy=remedy)
        self.known = known


class QuotaError(RequestError):
    """The caller's own limit is used up.

    Args:
        message: Which, and what to do.
        limit: Its name: rpm, tpm, concurrency…
        retry_after_s: When it allows the call, in seconds; None where it never does.
    """

    retry = Retry.LATER

    def __init__(self, message: str, *, limit: str, retry_after_s: float | None, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.limit = limit
        self.retry_after_s = retry_after_s


class UpstreamError(GatewayError):
    """A provider failed.

    Args:
        message: Ours, without the provider's body.
        kind: The normalised failure; decides what a retry is worth.
        account: Name of the account whose call failed; empty until the account actor fills it in.
        status: The provider's HTTP status, if there was one.
        retry_after_s: How long the provider asks to wait, in seconds.
        quota_id: The provider's own name of the exhausted quota.
        billed: Whether the provider certainly billed (True), certainly did not (False), or unknown (None).
    """

    def __init__(  # noqa: PLR0913  the fields of a failure, keyword-only
        self,
        message: str,
        *,
        kind: UpstreamKind,
        account: str = "",
        status: int | None = None,
        retry_after_s: float | None = None,
        quota_id: str | None = None,
        billed: bool | None = False,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.account = account
        self.status = status
        self.retry_after_s = retry_after_s
        self.quota_id = quota_id
        self.billed = billed

    @property
    def retry(self) -> Retry:  # type: ignore[override]
        """What a second attempt is worth; by kind."""
        return _RETRY_OF_KIND.get(self.kind, Retry.ELSEWHERE)


class CallLostError(UpstreamError):
    """The account's own actor died during the call; whether the provider was reached, and billed, is unknown.

    Our failure, told like a provider's because another account may serve the call at once.
    """


class NoAnswerError(UpstreamError):
    """The provider took the call, made it without us, and has no answer to it: it failed, was stopped or is forgotten.

    Asking for it again is worth nothing; whether it was billed is unknown.
    """


class InternalError(GatewayError):
    """We failed; the same request may succeed later."""

    retry = Retry.LATER


class CapacityError(InternalError):
    """Every account that could serve is busy, cooling or full.

    Args:
        message: What is full.
        retry_after_s: Earliest recovery, in seconds; None when nothing can be said.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.retry_after_s = retry_after_s


class DeadlineError(InternalError):
    """The time given for this work is over."""


class CancelledError(InternalError):
    """The owner withdrew the work."""

    retry = Retry.NEVER
