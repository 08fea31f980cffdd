"""What the configuration says about the gateway arrives in the orchestra, keys only as hashes; mistakes are refused."""

from __future__ import annotations

import pickle
from hashlib import sha256

import pytest

from app import settings
from app.domain.accounts import CacheSpec, GatewaySpec, Orchestra
from app.domain.callers import find_caller, index_callers
from app.domain.gateway import Caller, ServiceClass
from app.domain.limits import LimitSpec
from app.settings import ConfigurationProblems, Problem
from app.settings.model_table import model_table

SECRET = "team-search-secret-of-ours"
DIGEST = sha256(b"another key").hexdigest()
ENVIRON = {"HOME": "/h", "KEY": "correct-horse-battery", "TEAM_KEY": SECRET}
ACCOUNTS = """\
accounts:
  - name: a
    provider: openai
    api_key: ${KEY}
    models: [gpt-5-mini, {fast: gpt-5.4-nano}, gpt-5.6-sol]
  - name: d
    provider: deepseek
    api_key: ${KEY}2
    models: [deepseek-v4-pro, text-embedding-v4]
"""
"""Nine lines; what a test appends begins on line 10."""
WHOLE = """\
auth:
  keys:
    - name: search
      key: ${TEAM_KEY}
      limits: {rpm: 600, tpm: 400000, concurrency: 8, window: sliding, burst_s: 5}
      allowed_models: [gpt-5-mini, r1, gpt-5.4-nano, fast]
      class: interactive
      weight: 2
    - {name: nightly, key_hash: "sha256:HASH", class: batch}
gateway:
  queue_max: 7
  queue_timeout_s: 1.5
  attempts_max: 2
  retry_ratio: 0.2
  batch_headroom: 0.3
  idle_timeout_s: 9
  classifier: gpt-5.6
  fallbacks: {r1: [gpt-5.6, fast], deepseek-v4-pro: [gpt-5-mini]}
  cache: {enabled: true, ttl_s: 60, scope: shared, size_mb: 2}
  cors: {origins: ["https://App.example.com/", "http://localhost:5173"]}
""".replace("HASH", DIGEST.upper())


def loaded(text: str) -> Orchestra:
    """Load the accounts and ``text``."""
    return settings.load_text(ACCOUNTS + text, environ=ENVIRON)


def problems_of(text: str) -> tuple[Problem, ...]:
    """Return the mistakes in the accounts and ``text``."""
    with pytest.raises(ConfigurationProblems) as caught:
        loaded(text)
    return caught.value.problems


def test_load_text_reads_the_whole_gateway() -> None:
    """Every key arrives, aliases resolved, and the orchestra crosses an actor's border unchanged."""
    orchestra = loaded(WHOLE)
    search, nightly = orchestra.callers

    assert search.caller == Caller(
        name="search",
        limits=LimitSpec(
            rpm=600, tpm=400_000, concurrency=8, window="sliding", counted_from="start", burst_ms=5_000, charge="used"
        ),
        allowed_models=("gpt-5-mini", "deepseek-v4-pro", "fast"),
        service_class=ServiceClass.INTERACTIVE,
        weight=2.0,
    )
    assert nightly.caller == Caller(name="nightly", service_class=ServiceClass.BATCH)
    assert orchestra.gateway == GatewaySpec(
        queue_max=7,
        queue_timeout_s=1.5,
        attempts_max=2,
        retry_ratio=0.2,
        batch_headroom=0.3,
        idle_timeout_s=9.0,
        classifier="gpt-5.6-sol",
        fallbacks=(("deepseek-v4-pro", ("gpt-5.6-sol", "fast", "gpt-5-mini")),),
        cache=CacheSpec(enabled=True, ttl_s=60.0, scope="shared", size_bytes=2_000_000),
        cors_origins=("https://app.example.com", "http://localhost:5173"),
    )
    assert pickle.loads(pickle.dumps(orchestra)) == orchestra


def test_limits_of_users_arrive_and_know_no_day() -> None:
    """What a user used is kept for minutes; a limit that would be forgotten is refused."""
    head = "auth:\n  keys:\n    - name: k\n      key: abcdefgh-1\n"
    (spec,) = loaded(f"{head}      user_limits: {{rpm: 20, tpm: 9000, concurrency: 2}}\n").callers

    assert spec.caller.limits == LimitSpec()
    assert spec.caller.user_limits == LimitSpec(
        rpm=20, tpm=9_000, concurrency=2, window="sliding", counted_from="start", charge="used"
    )
    with pytest.raises(ConfigurationProblems) as caught:
        loaded(f"{head}      user_limits: {{rpd: 20}}\n")
    assert [problem.path for problem in caught.value.problems] == ["auth.keys[0].user_limits.rpd"]


@pytest.mark.parametrize(
    ("limits", "window", "burst_ms"),
    [
        ("{rpm: 6}", "sliding", 1_000),
        ("{rpm: 6, burst_s: 5}", "bucket", 5_000),
        ("{rpm: 6, burst_s: 5, window: sliding}", "sliding", 5_000),
        ("{rpm: 6, window: bucket}", "bucket", 1_000),
    ],
)
def test_limits_of_a_key_are_of_any_minute_unless_a_burst_is_named(limits: str, window: str, burst_ms: int) -> None:
    """6 requests a minute are 6 in any minute, at once if need be; an account's limits stay buckets."""
    orchestra = loaded(f"auth:\n  keys:\n    - {{name: k, key: abcdefgh-1, limits: {limits}}}\n")

    (spec,) = orchestra.callers
    found = spec.caller.limits
    assert (found.window, found.burst_ms, found.counted_from) == (window, burst_ms, "start")
    assert {each.window for account in orchestra.accounts for _model, each in account.limits} == {"bucket"}


def test_keys_are_nowhere_in_clear() -> None:
    """The key in the file and the hash of one both find their caller; the key itself is not kept."""
    orchestra = loaded(WHOLE)
    index = index_callers(orchestra.callers)

    assert find_caller(index, SECRET) == orchestra.callers[0].caller
    assert find_caller(index, "another key") == orchestra.callers[1].caller
    assert find_caller(index, DIGEST) is None
    assert SECRET not in repr(orchestra)
    assert SECRET.encode() not in pickle.dumps(orchestra)


@pytest.mark.parametrize("text", ["", "auth:\ngateway:\n", "gateway:\n  classifier: false\n  cache:\n  cors:\n"])
def test_defaults_are_those_of_the_domain(text: str) -> None:
    """Nothing said, or sections whose lines are all commented out: no key is needed, and the values agree."""
    orchestra = loaded(text)

    assert orchestra.callers == ()
    assert orchestra.gateway == GatewaySpec()


def test_aliases_lead_to_what_is_served() -> None:
    """Names of the table, of the upstream and of the same model: each to a public name, none that is public itself."""
    aliases = dict(loaded("").aliases)

    assert aliases == {"r1": "deepseek-v4-pro", "gpt-5.4-nano": "fast", "gpt-5.6": "gpt-5.6-sol"}


def test_embedding_models_play_no_part() -> None:
    """They are served, and neither conduct nor take tasks."""
    orchestra = loaded("coordinator: {judge_model: text-embedding-v4}\n")

    assert orchestra.model("text-embedding-v4").kind == "embedding"
    assert all("text-embedding-v4" not in (*route.primary, *route.fallback) for route in orchestra.routes)
    assert orchestra.coordinator.judge_model != "text-embedding-v4"


def test_models_say_what_they_are_good_at() -> None:
    """From their family, their tier and the configuration, in a few words."""
    orchestra = loaded("models: {fast: {strengths: [our own], best_for: [translation], images: false}}\n")
    mini, fast = orchestra.model("gpt-5-mini"), orchestra.model("fast")

    assert "tool use" in mini.strengths
    assert "fast" in mini.strengths
    assert mini.best_for == ("data_extraction", "translation", "summarisation")
    assert (mini.images, mini.tools) == (True, True)
    assert (fast.strengths, fast.best_for, fast.images) == (("our own",), ("translation",), False)
    assert orchestra.model("deepseek-v4-pro").images is False
    for name, row in model_table().rows.items():
        if row.info.kind == "chat":
            assert 0 < len(row.info.strengths) <= 6, name
            assert row.info.best_for or row.info.tier.value == "tiny", name


HASH = "sha256:" + "a" * 64
REFUSALS: list[tuple[str, str, int, str]] = [
    # text, field, line, words of the message or of the remedy
    ("auth: {keys: []}", "auth.keys", 10, "delete `auth`"),
    ("auth: {keys: [{key: longenough}]}", "auth.keys[0].name", 10, "missing"),
    ("auth:\n  keys:\n    - {name: a}", "auth.keys[0].key", 12, "write `key: ${NAME}`"),
    (f"auth:\n  keys:\n    - {{name: a, key: long-one, key_hash: '{HASH}'}}", "auth.keys[0].key_hash", 12, "one of"),
    ("auth:\n  keys:\n    - {name: a, key: short}", "auth.keys[0].key", 12, "openssl rand"),
    ("auth:\n  keys:\n    - {name: a, key: with a space}", "auth.keys[0].key", 12, "spaces"),
    ("auth:\n  keys:\n    - {name: a, key_hash: abc}", "auth.keys[0].key_hash", 12, "sha256sum"),
    ("auth:\n  keys:\n    - {name: anonymous, key: longenough}", "auth.keys[0].name", 12, "another name"),
    (
        "auth:\n  keys:\n    - {name: a, key: longenough}\n    - {name: a, key: longenough2}",
        "auth.keys[1].name",
        13,
        "first in auth.keys[0]",
    ),
    (
        f"auth:\n  keys:\n    - {{name: a, key: longenough}}\n    - name: b\n      key_hash: "
        f"sha256:{sha256(b'longenough').hexdigest()}",
        "auth.keys[1].key_hash",
        14,
        "stands twice",
    ),
    ("auth:\n  keys:\n    - {name: a, key: longenough, class: slow}", "auth.keys[0].class", 12, "interactive"),
    ("auth:\n  keys:\n    - {name: a, key: long-one, service_class: b}", "auth.keys[0].service_class", 12, "class"),
    ("auth:\n  keys:\n    - {name: a, key: longenough, weight: 0}", "auth.keys[0].weight", 12, "0.001"),
    ("auth:\n  keys:\n    - {name: a, key: longenough, limits: {rpm: 0}}", "auth.keys[0].limits.rpm", 12, "positive"),
    ("auth:\n  keys:\n    - {name: a, key: longenough, rpm: 5}", "auth.keys[0].rpm", 12, "belongs to"),
    (
        "auth:\n  keys:\n    - {name: a, key: longenough, allowed_models: [gpt-9]}",
        "auth.keys[0].allowed_models[0]",
        12,
        "no account serves",
    ),
    ("gateway: {queue: 5}", "gateway.queue", 10, "queue_max"),
    ("gateway: {queue_max: -1}", "gateway.queue_max", 10, "from 0"),
    ("gateway: {attempts_max: 0}", "gateway.attempts_max", 10, "from 1"),
    ("gateway: {retry_ratio: 2}", "gateway.retry_ratio", 10, "from 0 to 1"),
    ("gateway: {batch_headroom: x}", "gateway.batch_headroom", 10, "from 0 to 1"),
    ("gateway: {classifier: true}", "gateway.classifier", 10, "name the model"),
    ("gateway: {classifier: gpt-9}", "gateway.classifier", 10, "no account serves"),
    ("gateway: {fallbacks: {gpt-9: [fast]}}", "gateway.fallbacks.gpt-9", 10, "no account serves"),
    ("gateway: {fallbacks: {fast: [gpt-9]}}", "gateway.fallbacks.fast[0]", 10, "no account serves"),
    ("gateway: {fallbacks: {fast: []}}", "gateway.fallbacks.fast", 10, "at least one"),
    ("gateway: {fallbacks: {fast: [fast]}}", "gateway.fallbacks.fast[0]", 10, "itself"),
    ("gateway:\n  cache: {ttl_s: 0}", "gateway.cache.ttl_s", 11, "from 1"),
    ("gateway:\n  cache: {scope: world}", "gateway.cache.scope", 11, "shared"),
    ("gateway:\n  cors: {origins: [app.example.com]}", "gateway.cors.origins[0]", 11, "http"),
    ("gateway:\n  cors: {origins: ['https://a.example/x']}", "gateway.cors.origins[0]", 11, "no path"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "field", "line", "words"), REFUSALS, ids=[case[1] for case in REFUSALS])
def test_mistakes_are_refused_with_field_and_line(text: str, field: str, line: int, words: str) -> None:
    """One mistake, one problem: where it is, what it is, what to do."""
    (problem,) = problems_of(text + "\n")

    assert (problem.path, problem.line) == (field, line)
    assert words in f"{problem.message} {problem.remedy}"


def test_refusals_never_show_a_key() -> None:
    """A key in clear is wrong, or in the wrong place: the message tells where, not what."""
    for text in (
        "auth: {keys: [{name: a, key: 'my own secret'}]}",
        "auth: {keys: [{name: a, key: [my-own-secret]}]}",
        "auth: {keys: [{name: a, key: my-own-secret}, {name: b, key: my-own-secret}]}",
    ):
        with pytest.raises(ConfigurationProblems) as caught:
            loaded(text)
        assert "secret" not in caught.value.message


def test_auto_is_no_models_name() -> None:
    """The name leaves the choice to routing."""
    (problem,) = problems_of("  - {name: x, provider: custom, base_url: 'http://h/v1', models: [{auto: m}]}\n")

    assert problem.path == "accounts[2].models[0]"
    assert "routing" in problem.message
