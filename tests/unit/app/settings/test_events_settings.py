"""The section of events arrives as the domain takes it; mistakes are refused, and passwords are never shown."""

from __future__ import annotations

import pytest

from app import settings
from app.domain.accounts import Orchestra
from app.domain.events.spec import EventsSpec
from app.settings import ConfigurationProblems, Problem

ENVIRON = {"HOME": "/h", "KEY": "correct-horse-battery", "PASS": "swordfish-swordfish"}
ACCOUNTS = """\
accounts:
  - {name: a, provider: openai, api_key: "${KEY}", models: [gpt-5-mini]}
"""
ELASTIC = ACCOUNTS + "events:\n  elasticsearch:\n    url: https://e.example:9200\n"


def loaded(text: str) -> Orchestra:
    """Load the configuration."""
    return settings.load_text(text, environ=ENVIRON)


def problems_of(text: str) -> tuple[Problem, ...]:
    """Return the mistakes in it."""
    with pytest.raises(ConfigurationProblems) as caught:
        loaded(text)
    return caught.value.problems


def test_events_stay_here_where_nothing_is_said() -> None:
    """No receiver, a week, half a gigabyte."""
    spec = loaded(ACCOUNTS).events

    assert spec == EventsSpec()
    assert not spec.ships


def test_elasticsearch_arrives_with_its_secrets_hidden() -> None:
    """Megabytes become bytes; neither key nor password is in the value's text."""
    text = (
        ELASTIC + "    username: tutti\n    password: ${PASS}\n    batch_mb: 4\n    keep_days: null\n  spool_mb: 64\n"
    )
    spec = loaded(text).events

    assert spec.ships
    assert spec.spool_bytes == 64_000_000
    assert spec.elasticsearch is not None
    assert spec.elasticsearch.password == "swordfish-swordfish"
    assert spec.elasticsearch.batch_bytes == 4_000_000
    assert spec.elasticsearch.keep_days is None
    assert "swordfish" not in repr(spec)


def test_another_password_is_another_configuration() -> None:
    """A reload must bring it to who ships."""
    first, second = (loaded(ELASTIC + f"    username: u\n    password: {word}\n") for word in ("one", "two"))

    assert first.fingerprint != second.fingerprint


def test_another_token_of_a_receiver_is_another_configuration() -> None:
    """It is in no text of the value, and a reload brings it to who ships all the same."""
    otlp = ACCOUNTS + "events: {otlp: {endpoint: 'http://localhost:4318', headers: {authorization: %s}}}\n"
    first, second = (loaded(otlp % word) for word in ("swordfish", "tuna"))

    assert first.events.ships
    assert "swordfish" not in repr(first.events)
    assert first.fingerprint != second.fingerprint


def test_samples_are_kept_by_type() -> None:
    """The type's own share holds where nothing is said."""
    spec = loaded(ACCOUNTS + "events: {sample: {request.finished: 0.25}}\n").events

    assert spec.share("request.finished", 1.0) == 0.25
    assert spec.share("call.retried", 1.0) == 1.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ELASTIC + "    username: tutti\n", "belong together"),
        (ELASTIC + "    username: u\n    password: p\n    api_key: k\n", "signs in twice"),
        (ELASTIC + "  file:\n    folder: /tmp/events\n", "is a second receiver"),
        (ACCOUNTS + "events:\n  otlp:\n    endpoint: nowhere\n", "http"),
        (ELASTIC + "    index_prefix: Tutti\n", "index"),
        (ACCOUNTS + "events: {sample: {call.finished: 0.5}}\n", "kept whole"),
        (ACCOUNTS + "events: {sample: {call.finnished: 0.5}}\n", "no type of event"),
        (ACCOUNTS + "events: {profile: otel-2}\n", "known state"),
        (ACCOUNTS + "events: {spool_mb: 1}\n", "whole number"),
    ],
)
def test_mistakes_are_refused_with_what_to_do(text: str, said: str) -> None:
    """Each by name."""
    (problem,) = problems_of(text)

    assert said in f"{problem.message} {problem.remedy}"
    assert problem.remedy


def test_password_is_not_shown_where_it_is_refused() -> None:
    """A value in the place of a secret is a secret."""
    (problem,) = problems_of(ELASTIC + "    username: u\n    password: 'my swordfish'\n")

    assert "swordfish" not in f"{problem.message} {problem.remedy}"
