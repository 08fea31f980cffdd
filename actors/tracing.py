"""Sends this process's spans to the configured receiver, from a thread of its own: OTLP over HTTP.

A receiver that is down costs nothing but the spans beyond what the recorder keeps; nothing waits for it. What it
refuses for good is dropped and counted.
"""

from __future__ import annotations

import asyncio
import gzip
import http.client
import logging
import os
import random
import ssl
import threading
import uuid
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from urllib.parse import urlsplit

import certifi

from app.domain.telemetry import TracesSpec
from app.services.telemetry import instruments
from app.services.telemetry.tracing import Recorder, SpanRecord, record_into

PERIOD_S = 0.5
BATCH_MAX = 512
TIMEOUT_S = 10.0
PAUSE_MIN_S = 0.5
PAUSE_MAX_S = 30.0
"""Between two tries where the receiver is down."""
TRIES_MAX = 8
"""Of one batch: about a minute; then newer spans say more."""
PATH = "/v1/traces"
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})

_log = logging.getLogger(__name__)


class SpanExporter:
    """Sends what a recorder has, twice a second.

    Args:
        recorder: Of this process.
        traces: Where to.
        resource: Whose spans these are.
    """

    def __init__(self, recorder: Recorder, traces: TracesSpec, resource: Mapping[str, str]) -> None:
        assert traces.otlp_endpoint is not None, "without an endpoint nothing is recorded"
        self.recorder = recorder
        self.traces = traces
        self._resource = dict(resource)
        self._url = urlsplit(traces.otlp_endpoint)
        self._path = self._url.path if self._url.path.endswith(PATH) else self._url.path + PATH
        self._ended = threading.Event()
        self._dropped_seen = 0
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what is there, once more, and end."""
        self._ended.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._ended.wait(PERIOD_S):
            self._send_all()
        self._send_all()

    def _send_all(self) -> None:
        dropped, self._dropped_seen = self.recorder.dropped - self._dropped_seen, self.recorder.dropped
        if dropped:
            instruments.SPANS_DROPPED.add(dropped)
        while spans := self.recorder.take(BATCH_MAX):
            try:
                taken = self._send(spans)
            except Exception:  # noqa: BLE001  the thread's outermost edge: without it no span is ever sent again
                _log.exception("spans could not be sent")
                taken = False
            (instruments.SPANS_SENT if taken else instruments.SPANS_DROPPED).add(len(spans))

    def _send(self, spans: list[SpanRecord]) -> bool:
        # Here, not above: the protocol's messages cost a tenth of a second of CPU that only those with traces pay.
        from app.services.telemetry.otlp import encode

        body = gzip.compress(encode(spans, self._resource), compresslevel=1)
        for tries in range(1, TRIES_MAX + 1):
            status = self._post(body)
            if 200 <= status < 300:
                return True
            if status and status not in _AGAIN:
                _log.warning("the receiver of spans refuses them with status %d", status)
                return False
            if tries == 1:
                _log.warning("the receiver of spans does not take them (status %d)", status)
            if self._ended.is_set() or self._ended.wait(_pause_s(tries)):
                return False
        return False

    def _post(self, body: bytes) -> int:
        """Return the status; 0 where there was no answer."""
        headers = {
            "content-type": "application/x-protobuf",
            "content-encoding": "gzip",
            "user-agent": "tutti",
            **dict(self.traces.headers),
        }
        connection = self._connect()
        try:
            connection.request("POST", self._path, body=body, headers=headers)
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            return 0
        else:
            return response.status
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=_tls_context())
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)


@cache
def _tls_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certifi.where())


def _pause_s(tries: int) -> float:
    return random.uniform(0.0, min(PAUSE_MAX_S, PAUSE_MIN_S * 2**tries))


class _Process:
    exporter: SpanExporter | None = None


def follow(traces: TracesSpec, *, role: str) -> None:
    """Record and send this process's spans as configured; called again, follow the change.

    Args:
        traces: As configured.
        role: What this process is, for people.
    """
    exporter = _Process.exporter
    if exporter is not None and exporter.traces == traces:
        return
    if traces.otlp_endpoint is None:
        _Process.exporter = None
        record_into(None, shared=traces.tell_providers)
    else:
        # A new one: what was recorded before goes where it was meant to.
        recorder = Recorder(ratio=traces.ratio)
        record_into(recorder, shared=traces.tell_providers)
        _Process.exporter = SpanExporter(recorder, traces, resource_of(role))
    if exporter is not None:
        exporter.close(0.0)


async def flush() -> None:
    """Send what was recorded so far, before this process ends; nothing where no spans are recorded."""
    exporter, _Process.exporter = _Process.exporter, None
    if exporter is not None:
        record_into(None)
        await asyncio.to_thread(exporter.close)


def resource_of(role: str) -> dict[str, str]:
    """Return what receivers tell processes apart by."""
    return {
        "service.name": "tutti",
        "service.version": version("tutti"),
        "service.instance.id": uuid.uuid4().hex,
        "tutti.role": role,
        "process.pid": str(os.getpid()),
    }
