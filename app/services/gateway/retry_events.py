"""Tells of a provider call that failed and is made again."""

from __future__ import annotations

from app.domain.errors import UpstreamError
from app.domain.ports import Tells
from app.services.gateway.spending import Billing


def tell_retry(events: Tells, billing: Billing, error: UpstreamError, *, attempts: int, elsewhere: bool) -> None:
    """Tell it; ``attempts`` were made by now, and the next is made elsewhere or on the same account."""
    events.emit(
        "call.retried",
        request_id=billing.request_id or None,
        caller=billing.owners.key or None,
        account=error.account,
        error_type=error.kind.value,
        http_status=error.status,
        attempts=attempts,
        reason="failover" if elsewhere else "same account",
        outcome="failure",
        trace_id=billing.trace_id or None,
    )
