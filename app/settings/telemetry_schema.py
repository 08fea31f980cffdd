"""The section ``telemetry`` of the configuration: metrics and traces."""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator

from app.domain.telemetry import TelemetrySpec, TracesSpec
from app.settings.fields import EMPTY_IF_NULL, BaseUrl, Share, refusal, whole
from app.settings.sections import Section, setting

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")


def _header_name(value: object) -> object:
    if not isinstance(value, str) or not _HEADER_NAME.fullmatch(value):
        raise refusal("is no name of a header", "write for instance authorization")
    return value.lower()


def _header_value(value: object) -> object:
    if not isinstance(value, str) or not value.strip() or not value.isascii() or not value.isprintable():
        raise refusal("must be text on one line", "write for instance 'Bearer ${OTLP_TOKEN}'")
    return value.strip()


OtlpHeaders: TypeAlias = dict[
    Annotated[str, BeforeValidator(_header_name)], Annotated[str, BeforeValidator(_header_value)]
]


class TracesSection(Section):
    """Where spans go: any OpenTelemetry receiver, for instance Jaeger, Tempo, or a collector."""

    otlp_endpoint: BaseUrl | None = setting(
        None,
        "Gets spans by OTLP over HTTP, at `/v1/traces` below this address. null: none are recorded; calls and runs "
        "have their trace ids all the same.",
        kind="http or https address or null",
        example="http://localhost:4318",
    )
    headers: Annotated[OtlpHeaders, EMPTY_IF_NULL] = setting(
        dict,
        "Sent along, for receivers that want a key.",
        kind="mapping of text",
        example="{authorization: 'Bearer ${OTLP_TOKEN}'}",
    )
    ratio: Share = setting(
        1.0,
        "Share of the traces beginning here that are recorded. A caller's own trace is recorded where the caller says "
        "so.",
        kind="number from 0 to 1",
        example="0.1",
    )
    tell_providers: bool = setting(
        False,
        "Whether requests to providers carry `traceparent`: of use where the provider is a server of yours.",
        kind="true or false",
        example="true",
    )


_PORT = BeforeValidator(whole(1, 65_535, what="a port from 1 to 65535", remedy="write for instance 9464"))


class TelemetrySection(Section):
    """What those who watch Tutti are told."""

    metrics: bool = setting(
        True, "Whether metrics stand on Ray's Prometheus endpoint.", kind="true or false", example="false"
    )
    metrics_port: Annotated[int, _PORT] | None = setting(
        None,
        "Where they stand on the cluster that `tutti serve` starts; on one of yours `ray start --metrics-export-port` "
        "says. null: a free port, which `tutti doctor` tells. Needs a restart.",
        kind="port or null",
        example="9464",
    )
    traces: Annotated[TracesSection, EMPTY_IF_NULL] = setting(
        TracesSection, "Where spans go.", kind="traces", example="{otlp_endpoint: 'http://localhost:4318'}"
    )


def telemetry_of(section: TelemetrySection) -> TelemetrySpec:
    """Return the section as the actors see it."""
    traces = section.traces
    return TelemetrySpec(
        metrics=section.metrics,
        metrics_port=section.metrics_port,
        traces=TracesSpec(
            otlp_endpoint=traces.otlp_endpoint,
            headers=tuple(traces.headers.items()),
            ratio=traces.ratio,
            tell_providers=traces.tell_providers,
        ),
    )
