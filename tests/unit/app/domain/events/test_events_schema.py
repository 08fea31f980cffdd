"""The table of fields and the declarations of event types fit together, and with what Elasticsearch accepts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.domain.chat import Json
from app.domain.events.fields import ALIASES, EVERY, FIELD, FIELDS, PROFILES, mappings, path_of
from app.domain.events.schema import SAMPLED, TYPES, EventClass, EventType

SENSITIVE = ("prompt", "messages", "system_instructions", "arguments", "answer", "api_key", "secret", "token.value")


def leaves(properties: Json, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path, type) of every field of a mapping."""
    assert isinstance(properties, dict)
    for name, mapping in properties.items():
        assert isinstance(mapping, dict)
        if "properties" in mapping:
            yield from leaves(mapping["properties"], f"{prefix}{name}.")
        else:
            kind = mapping["type"]
            assert isinstance(kind, str)
            yield f"{prefix}{name}", kind


def test_every_field_has_a_name_and_a_place_of_its_own() -> None:
    """Two fields in one place would overwrite each other."""
    assert len(FIELD) == len(FIELDS)
    for profile in PROFILES:
        paths = [field.path_in(profile) for field in FIELDS]
        assert len(set(paths)) == len(paths)


def test_no_field_is_an_object_that_holds_others() -> None:
    """Elasticsearch refuses a document whose field is a value here and an object there."""
    paths = {field.path_in(profile) for field in FIELDS for profile in PROFILES} | set(ALIASES)
    for path in paths:
        assert not any(other.startswith(f"{path}.") for other in paths)


def test_mappings_hold_every_field_of_every_profile() -> None:
    """A change of profile in the middle of a day must not make documents that the day's index drops."""
    mapped = dict(leaves(mappings()["properties"]))

    assert {field.path_in(profile) for field in FIELDS for profile in PROFILES} <= set(mapped)
    assert mapped["gen_ai.system"] == "alias"
    assert mapped["gen_ai.response.finish_reasons"] == "keyword"
    assert mapped["tutti.cost.nano_usd"] == "long"
    assert "integer" not in mapped.values()
    assert "nested" not in mapped.values()


def test_profile_renames_what_the_conventions_renamed() -> None:
    """The one renamed attribute of what we tell."""
    assert path_of("cache_write_tokens") == "gen_ai.usage.cache_creation.input_tokens"
    assert path_of("cache_write_tokens", "genai-main") == "gen_ai.usage.cache_write.input_tokens"


def test_every_field_is_told_by_some_type() -> None:
    """A field that nothing fills is a promise that nobody keeps."""
    told = {name for one in TYPES for name in one.fields}

    assert told | EVERY == set(FIELD)


def test_no_field_is_meant_for_what_must_not_be_told() -> None:
    """Capture is off: there is no field that a prompt or a key could stand in."""
    for field in FIELDS:
        assert not any(word in field.path for word in SENSITIVE), field.path


def test_type_refuses_a_field_that_is_not_declared() -> None:
    """The table of fields is the only way into a document."""
    with pytest.raises(ValueError, match="there are not"):
        one("prompt")


@pytest.mark.parametrize("event_class", [each for each in EventClass if each not in SAMPLED])
def test_type_that_must_be_whole_refuses_sampling(event_class: EventClass) -> None:
    """A share of the bills is no bill."""
    with pytest.raises(ValueError, match="sampled"):
        one("reason", event_class=event_class, sample=0.5)


def test_types_of_the_issue_are_all_there() -> None:
    """Provider call, run, task, judgement, clarification, retry, failover, cooldown, limit, budget, posting, …"""
    names = {each.name for each in TYPES}

    assert len(names) == len(TYPES)
    assert {
        *("call.finished", "run.accepted", "run.finished", "task.finished", "task.judged", "run.questions"),
        *("call.retried", "account.changed", "limit.hit", "budget.alert", "ledger.corrected"),
        *("configuration.changed", "access.granted", "access.refused", "operator.acted"),
        *("actor.started", "actor.ended", "log.line", "request.finished", "events.dropped"),
    } <= names


def one(field: str, *, event_class: EventClass = EventClass.TELEMETRY, sample: float = 1.0) -> EventType:
    """Return a type with one field."""
    return EventType(
        name="a.type",
        meaning="For a test.",
        event_class=event_class,
        dataset="tutti.test",
        category=("api",),
        type=("info",),
        fields=(field,),
        sample=sample,
    )
