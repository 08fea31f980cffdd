"""Requests to Elasticsearch, signed in as configured."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from types import MappingProxyType

from app.domain.events.spec import ElasticsearchSpec
from app.sinks.http import TIMEOUT_S, ReceiverHttp


class ElasticsearchHttp(ReceiverHttp):
    """See ``ReceiverHttp``.

    Args:
        spec: Where it is, and with which key.
        timeout_s: Of one request, connecting included.
        headers: Of every request, beside our own.
    """

    def __init__(
        self,
        spec: ElasticsearchSpec,
        *,
        timeout_s: float = TIMEOUT_S,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(spec.url, {**headers, **_authorization(spec)}, ca_cert=spec.ca_cert, timeout_s=timeout_s)


def _authorization(spec: ElasticsearchSpec) -> dict[str, str]:
    if spec.api_key is not None:
        return {"authorization": f"ApiKey {spec.api_key}"}
    if spec.username is not None:
        pair = f"{spec.username}:{spec.password or ''}".encode()
        return {"authorization": f"Basic {b64encode(pair).decode()}"}
    return {}
