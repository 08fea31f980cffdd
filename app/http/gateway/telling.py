"""Tells of a client's call how it ended: one event a call, one more where it was refused for who called or how often.

Filled in on the way by the door that serves it; names and numbers only, nothing of what was asked or answered.
"""

from __future__ import annotations

import time

from app.domain.chat import ChatDelta, ChatResult, Usage
from app.domain.errors import AccessError, GatewayError, QuotaError, UpstreamError
from app.domain.events.fields import PROVIDERS
from app.domain.gateway import Caller
from app.domain.ports import Tells
from app.domain.trace_context import current
from app.services.gateway.gateway import Facts


class RequestTold:
    """One client's call.

    Args:
        path: As declared: never a stranger's.
        request_id: The call's.
        operation: As the conventions name it.
    """

    __slots__ = (
        "_began_s",
        "_error",
        "_facts",
        "_finish",
        "_operation",
        "_ours_s",
        "_path",
        "_reason",
        "_response_id",
        "_status",
        "_usage",
        "caller",
        "events",
        "max_tokens",
        "model",
        "request_id",
        "stream",
        "temperature",
        "user",
    )

    def __init__(self, path: str, request_id: str, operation: str = "chat") -> None:
        self._began_s = time.perf_counter()
        self._path = path
        self.request_id = request_id
        self._operation = operation
        self.events: Tells | None = None
        """None until the gateway is known."""
        self.caller: Caller | None = None
        self.user: str | None = None
        self.model: str | None = None
        """As the client asked for it."""
        self.stream = False
        self.max_tokens: int | None = None
        self.temperature: float | None = None
        self._finish: tuple[str, ...] | None = None
        self._response_id: str | None = None
        self._facts: Facts | None = None
        self._usage: Usage | None = None
        self._ours_s: float | None = None
        self._status = 0
        self._error: GatewayError | None = None
        self._reason: str | None = None

    @property
    def began_s(self) -> float:
        """When it came, by ``time.perf_counter``."""
        return self._began_s

    def answered(self, facts: Facts, ours_s: float, usage: Usage | None = None) -> None:
        """Note who answers."""
        self._status, self._facts, self._ours_s, self._usage = 200, facts, ours_s, usage

    def ended(self, last: ChatResult | ChatDelta) -> None:
        """Note how the answer ended: the whole of it, or the last event of a streamed one."""
        self._response_id = last.provider_id
        self._usage = last.usage if last.usage is not None else self._usage
        if last.finish_reason is not None:
            self._finish = (last.finish_reason,)

    def failed(self, error: GatewayError, status: int) -> None:
        """Note how it failed; after the first byte of an answer the status is what was sent."""
        self._error, self._status = error, self._status or status

    def refused(self, status: int, reason: str) -> None:
        """Note that it was refused before anything was done, or that it broke off."""
        self._status, self._reason = self._status or status, reason

    def tell(self) -> None:
        """Tell it; once."""
        events = self.events
        if events is None:
            return
        error, facts, usage, caller = self._error, self._facts, self._usage, self.caller
        served = facts.served if facts is not None else None
        context = current()
        events.emit(
            "request.finished",
            request_id=self.request_id,
            endpoint=self._path,
            http_method="POST",
            http_status=self._status or None,
            operation=self._operation,
            request_model=self.model,
            request_max_tokens=self.max_tokens,
            temperature=self.temperature,
            response_id=self._response_id,
            finish_reasons=self._finish,
            stream=self.stream,
            duration_ns=int((time.perf_counter() - self._began_s) * 1e9),
            overhead_ms=None if self._ours_s is None else round(self._ours_s * 1e3, 3),
            outcome=self._outcome(),
            reason=self._reason,
            error_type=_kind(error),
            caller=caller.name if caller is not None else None,
            team=(caller.team or None) if caller is not None else None,
            route_class=caller.service_class if caller is not None else None,
            user=self.user,
            account=(served.account or None) if served is not None else None,
            provider=PROVIDERS.get(served.provider, served.provider) if served is not None else None,
            model=served.model if served is not None else None,
            cache=None if facts is None else ("hit" if facts.cached else "miss"),
            input_tokens=usage.input_tokens if usage is not None else None,
            output_tokens=usage.output_tokens if usage is not None else None,
            trace_id=context.trace_id if context is not None else None,
        )
        if isinstance(error, QuotaError):
            events.emit(
                "limit.hit",
                request_id=self.request_id,
                caller=caller.name if caller is not None else None,
                user=self.user,
                scope="caller",
                limit_name=error.limit,
                retry_after_ms=None if error.retry_after_s is None else int(error.retry_after_s * 1e3),
                outcome="failure",
            )
        elif isinstance(error, AccessError):
            events.emit(
                "access.refused",
                request_id=self.request_id,
                endpoint=self._path,
                http_method="POST",
                http_status=self._status,
                caller=caller.name if caller is not None else None,
                outcome="failure",
                reason="not allowed" if error.known else "unknown key",
            )

    def _outcome(self) -> str:
        if self._error is None and self._reason is None:
            return "success"
        return "unknown" if self._reason == CLIENT_GONE else "failure"


CLIENT_GONE = "client gone"


def _kind(error: GatewayError | None) -> str | None:
    if error is None:
        return None
    return error.kind.value if isinstance(error, UpstreamError) else type(error).__name__
