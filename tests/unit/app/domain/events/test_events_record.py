"""A record is one line of JSON that holds what its type declares and nothing else; ids grow and never come twice."""

from __future__ import annotations

import uuid
from typing import cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.chat import Json
from app.domain.events.fields import EVERY, FIELD, FIELDS, PROFILES, FieldType
from app.domain.events.record import CHECKED, EventIds, Origin, Recorder, UnknownFieldError, index_date
from app.domain.events.schema import TYPES, EventType

NOON_NS = 1_795_262_400_123_456_789
"""2026-11-21T12:00:00 UTC and a bit."""
VALUE = {
    FieldType.KEYWORD: "a word",
    FieldType.LONG: 42,
    FieldType.DOUBLE: 0.5,
    FieldType.BOOLEAN: True,
    FieldType.TEXT: "a sentence",
    FieldType.STORED: "a stack",
    FieldType.DATE: "2026-11-21T12:00:00Z",
}


def recorder() -> Recorder:
    """Return one of a process that is called replica-1."""
    return Recorder(Origin(node="replica-1", host="m", pid=7, version="0.1.0"), EventIds(5))


def document(event_type: str, values: dict[str, object]) -> dict[str, Json]:
    """Return what is told."""
    return cast("dict[str, Json]", orjson.loads(recorder().record(event_type, NOON_NS, values).body))


def test_document_has_the_frame_and_the_values_by_their_paths() -> None:
    """What is absent stays absent."""
    told = document("call.retried", {"account": "a", "http_status": 429, "reason": "failover", "attempts": None})

    assert told == {
        "@timestamp": "2026-11-21T12:00:00.123456Z",
        "event.id": told["event.id"],
        "tutti.account.id": "a",
        "http.response.status_code": 429,
        "event.reason": "failover",
        "event.action": "call.retried",
        "event.kind": "event",
        "event.category": ["api"],
        "event.type": ["error"],
        "event.dataset": "tutti.gateway",
        "tutti.event.class": "telemetry",
        "tutti.event.schema": "tutti-events/1",
        "ecs.version": "9.2.0",
        "service.name": "tutti",
        "service.version": "0.1.0",
        "service.node.name": "replica-1",
        "host.name": "m",
        "process.pid": 7,
    }


@pytest.mark.parametrize("event_type", TYPES, ids=lambda one: one.name)
def test_every_type_tells_every_field_that_it_declares(event_type: EventType) -> None:
    """And only paths of the table, by every profile."""
    values = {name: VALUE[FIELD[name].type] for name in event_type.fields}
    for profile in PROFILES:
        maker = recorder()
        maker.use(profile)
        told = orjson.loads(maker.record(event_type.name, NOON_NS, values).body)

        assert {FIELD[name].path_in(profile) for name in event_type.fields} <= set(told)
        assert set(told) <= {field.path_in(profile) for field in FIELDS}


def test_document_without_values_is_one_too() -> None:
    """An event may say only that it happened."""
    assert document("run.note", {})["event.action"] == "run.note"


def test_profile_may_change_while_we_run() -> None:
    """A reload names fields anew."""
    maker = recorder()
    before = maker.record("call.finished", NOON_NS, {"cache_write_tokens": 3}).body
    maker.use("genai-main")
    after = maker.record("call.finished", NOON_NS, {"cache_write_tokens": 3}).body

    assert orjson.loads(before)["gen_ai.usage.cache_creation.input_tokens"] == 3
    assert orjson.loads(after)["gen_ai.usage.cache_write.input_tokens"] == 3


def test_field_that_is_not_declared_is_refused() -> None:
    """A prompt has no field, so it cannot be told by mistake."""
    maker = recorder()
    for _ in range(CHECKED + 2):
        with pytest.raises(UnknownFieldError, match="no field 'prompt'"):
            maker.record("call.retried", NOON_NS, {"prompt": "secret"})


@pytest.mark.parametrize("name", sorted(EVERY - {"trace_id", "span_id", "parent_id"}))
def test_frame_cannot_be_overwritten(name: str) -> None:
    """Who tells, what and when is not the teller's to say; the trace is."""
    with pytest.raises(UnknownFieldError):
        document("run.note", {name: "other"})


def test_trace_is_told_by_every_type() -> None:
    """One id from the header to the document."""
    assert document("run.note", {"trace_id": "ab" * 16})["trace.id"] == "ab" * 16


@pytest.mark.parametrize(
    ("name", "value"), [("http_status", "429"), ("http_status", True), ("http_status", 1.5), ("account", 7)]
)
def test_value_of_another_kind_is_refused(name: str, value: object) -> None:
    """Elasticsearch would refuse the whole document."""
    with pytest.raises(UnknownFieldError, match="holds no"):
        document("call.retried", {name: value})


def test_member_of_a_closed_set_is_its_word() -> None:
    """Enums of ours are words."""
    assert document("request.finished", {"operation": FieldType.LONG})["gen_ai.operation.name"] == "long"


@given(st.lists(st.integers(0, 2**61), min_size=2, max_size=20), st.integers(0, 2**70))
def test_ids_are_uuids_that_sort_by_time(times: list[int], chance: int) -> None:
    """Also those of one millisecond never come twice."""
    ids = EventIds(chance)
    made = [ids.make(time_ns) for time_ns in sorted(times)]

    assert len(set(made)) == len(made)
    assert all(uuid.UUID(one).version == 7 and uuid.UUID(one).variant == uuid.RFC_4122 for one in made)
    millis = [one[:13] for one in made]
    assert millis == sorted(millis)


def test_day_of_the_index_is_the_events_own() -> None:
    """In UTC."""
    assert index_date(NOON_NS) == "2026.11.21"
    assert index_date(NOON_NS + 12 * 3_600 * 1_000_000_000) == "2026.11.22"
