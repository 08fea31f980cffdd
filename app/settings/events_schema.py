"""The part of the schema that concerns events: what is kept here, what is sampled, where they are shipped.

``schema`` puts it into the whole.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from app.domain.events.fields import DEFAULT_PROFILE, PROFILES, Profile
from app.domain.events.schema import SAMPLED, TYPE
from app.domain.events.spec import ElasticsearchSpec, EventsSpec, FileSpec, OtlpSpec
from app.settings.fields import EMPTY_IF_NULL, BaseUrl, Name, Secret, Share, Text, refusal, whole
from app.settings.sections import Section, setting
from app.settings.telemetry_schema import OtlpHeaders

MEGABYTE = 1_000_000


def _number(minimum: int, maximum: int, example: str) -> BeforeValidator:
    what = f"a whole number from {minimum} to {maximum}"
    return BeforeValidator(whole(minimum, maximum, what=what, remedy=f"write for instance {example}"))


def _days(value: object) -> object:
    check = whole(1, 3_650, what="a whole number of days from 1 to 3650", remedy="write for instance 30")
    return None if value is None else check(value)


def _profile(value: object) -> object:
    if value not in PROFILES:
        raise refusal("must be a known state of the conventions", f"write {' or '.join(PROFILES)}")
    return value


def _index(value: str) -> str:
    if value != value.lower() or value.startswith((".", "-", "_")) or "*" in value:
        raise refusal(
            "must be a name that Elasticsearch takes for an index", "write small letters, for instance tutti-events"
        )
    return value


def _sampled(value: str) -> str:
    found = TYPE.get(value)
    if found is None:
        raise refusal("is no type of event", "`tutti events types` lists them")
    if found.event_class not in SAMPLED:
        raise refusal(f"is of class {found.event_class.value}, which is kept whole", "sample telemetry or debug only")
    return value


class ElasticsearchSection(Section):
    """Where events are shipped. Nothing is lost while it is away: they wait here."""

    url: BaseUrl = setting(
        ..., "Where it answers.", kind="http or https address", example="https://elastic.example.com:9200"
    )
    api_key: Secret | None = setting(
        None,
        "An API key, base64 as Elasticsearch gives it. Refer to an environment variable.",
        kind="text",
        example="${ELASTIC_API_KEY}",
    )
    username: Text | None = setting(None, "Instead of a key: the user.", kind="text", example="tutti")
    password: Secret | None = setting(None, "The user's password.", kind="text", example="${ELASTIC_PASSWORD}")
    ca_cert: Text | None = setting(
        None, "A file of certificates to trust beside the usual ones.", kind="path", example="/etc/ssl/elastic-ca.pem"
    )
    index_prefix: Annotated[Name, AfterValidator(_index)] = setting(
        "tutti-events",
        "Indices are named by it and the day of the event; the alias to read by is the prefix itself.",
        kind="name",
        example="tutti-events",
    )
    batch_docs: Annotated[int, _number(1, 20_000, "2000")] = setting(
        2_000, "Most events in one request.", kind="whole number from 1 to 20000", unit="events", example="2000"
    )
    batch_mb: Annotated[int, _number(1, 90, "8")] = setting(
        8, "Largest request.", kind="whole number from 1 to 90", unit="megabytes", example="8"
    )
    keep_days: Annotated[int | None, BeforeValidator(_days)] = setting(
        30,
        "Where the server has no lifecycle management: indices of earlier days are deleted. null: never.",
        kind="whole number from 1 to 3650, or null",
        unit="days",
        example="90",
    )


class FileSection(Section):
    """Files for Filebeat, Vector, an OpenTelemetry collector: one ECS document a line, written before it counts."""

    folder: Text = setting(..., "Where they stand; made where missing.", kind="path", example="/var/log/tutti-events")
    file_mb: Annotated[int, _number(1, 10_000, "100")] = setting(
        100, "Size at which another file begins.", kind="whole number from 1 to 10000", unit="megabytes", example="100"
    )
    files: Annotated[int, _number(2, 10_000, "10")] = setting(
        10, "Files that are kept; older ones are deleted.", kind="whole number from 2 to 10000", example="10"
    )


class OtlpSection(Section):
    """Any receiver of OpenTelemetry's logs: a collector, or a service that speaks OTLP over HTTP."""

    endpoint: BaseUrl = setting(
        ..., "Gets them at `/v1/logs` below this.", kind="http or https address", example="http://localhost:4318"
    )
    headers: Annotated[OtlpHeaders, EMPTY_IF_NULL] = setting(
        dict,
        "Sent along, for receivers that want a key.",
        kind="mapping of text",
        example="{authorization: 'Bearer ${OTLP_TOKEN}'}",
    )
    ca_cert: Text | None = setting(
        None, "A file of certificates to trust beside the usual ones.", kind="path", example="/etc/ssl/otlp-ca.pem"
    )


class EventsSection(Section):
    """What happens, as events: kept here, shipped where that is configured."""

    profile: Annotated[Profile, BeforeValidator(_profile)] = setting(
        DEFAULT_PROFILE,
        "Which state of OpenTelemetry's conventions for generative AI names the fields.",
        kind=" or ".join(f"`{name}`" for name in PROFILES),
        example="genai-main",
    )
    spool_mb: Annotated[int, _number(8, 1_000_000, "2048")] = setting(
        2048,
        "Most room that waiting events take in `data_dir`, and again in the store. Then telemetry and log lines lose "
        "their oldest, other classes make their writers wait, or refuse them.",
        kind="whole number from 8 to 1000000",
        unit="megabytes",
        example="4096",
    )
    keep_days: Annotated[int, _number(1, 3_650, "7")] = setting(
        7,
        "How long events stay here for `tutti events`: shipped ones, and all of them where none are shipped.",
        kind="whole number from 1 to 3650",
        unit="days",
        example="30",
    )
    sample: Annotated[dict[Annotated[str, AfterValidator(_sampled)], Share], EMPTY_IF_NULL] = setting(
        dict,
        "Share of an event type that is kept, for telemetry and debug; the rest is not told at all.",
        kind="mapping of event type to a number from 0 to 1",
        example="{request.finished: 0.1}",
    )
    elasticsearch: ElasticsearchSection | None = setting(
        None, "Where events are shipped; null: they stay here.", kind="elasticsearch or null", example="see below"
    )
    file: FileSection | None = setting(
        None, "Instead: files that somebody else's shipper reads.", kind="file or null", example="see below"
    )
    otlp: OtlpSection | None = setting(
        None, "Instead: a receiver of OpenTelemetry's logs.", kind="otlp or null", example="see below"
    )


def events_of(section: EventsSection) -> EventsSpec:
    """Return the section as the domain takes it."""
    elastic = section.elasticsearch
    return EventsSpec(
        profile=section.profile,
        spool_bytes=section.spool_mb * MEGABYTE,
        keep_days=section.keep_days,
        samples=tuple(section.sample.items()),
        elasticsearch=None
        if elastic is None
        else ElasticsearchSpec(
            url=elastic.url,
            api_key=elastic.api_key,
            username=elastic.username,
            password=elastic.password,
            ca_cert=elastic.ca_cert,
            index_prefix=elastic.index_prefix,
            batch_docs=elastic.batch_docs,
            batch_bytes=elastic.batch_mb * MEGABYTE,
            keep_days=elastic.keep_days,
        ),
        file=None
        if section.file is None
        else FileSpec(
            folder=section.file.folder,
            file_bytes=section.file.file_mb * MEGABYTE,
            files=section.file.files,
        ),
        otlp=None
        if section.otlp is None
        else OtlpSpec(
            url=section.otlp.endpoint,
            headers=tuple(section.otlp.headers.items()),
            ca_cert=section.otlp.ca_cert,
        ),
    )
