"""A wrong configuration says which field is wrong and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.simulator.config import load_config, parse_config
from app.simulator.control import changed
from app.simulator.wire_anthropic import rfc3339
from app.simulator.wire_openai import go_duration

EXAMPLE = Path(__file__).parents[4] / "examples" / "sim.yaml"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"prot": 1}, "prot: unknown field; remove it"),
        ({"port": 70000}, "port: "),
        ({"keys": [{"group": "g"}]}, "keys[0].key: required; add it"),
        ({"keys": [{"key": "a", "limits": {"rpm": 0}}]}, "keys[0].limits.rpm: "),
        ({"keys": [{"key": "a"}, {"key": "a"}]}, "listed twice"),
        ({"faults": [{"kind": "http_418"}]}, "faults[0].kind: "),
        ({"faults": [{"kind": "reset", "every": 2, "first": 1}]}, "every and first exclude each other"),
        ({"replies": [{"match": {"regex": "("}, "text": "x"}]}, "replies[0].match.regex: '('"),
        ({"replies": [{"json": {"a": {"$for_each": "["}}}]}, "$for_each"),
        (
            {"profile": {"latency": {"kind": "uniform"}}},
            "profile.latency: uniform draws between min_s and max_s; give max_s",
        ),
        (["a"], "must be a mapping"),
    ],
)
def test_config_names_the_field_and_the_remedy(document: object, said: str) -> None:
    """In the words of the file, not of the validator."""
    with pytest.raises(ValueError) as caught:
        parse_config(document, source="sim.yaml")

    assert str(caught.value).startswith("sim.yaml: ")
    assert said in str(caught.value)


def test_config_refuses_a_group_whose_keys_disagree() -> None:
    """They share one limit; two statements of it would leave one a lie."""
    keys = [{"key": "a", "group": "g", "limits": {"rpm": 1}}, {"key": "b", "group": "g", "limits": {"rpm": 2}}]

    with pytest.raises(ValueError, match="group 'g' state different limits"):
        parse_config({"keys": keys}, source="test")


def test_config_that_is_no_yaml_or_no_text_is_a_plain_error(tmp_path: Path) -> None:
    """No traceback reaches the user, so both must be the same kind of error."""
    broken, binary = tmp_path / "a.yaml", tmp_path / "b.yaml"
    broken.write_text("keys: [", encoding="utf-8")
    binary.write_bytes(b"\xff\xfe")

    for path, said in ((broken, "not valid YAML"), (binary, "not UTF-8")):
        with pytest.raises(ValueError, match=said):
            load_config(path)


def test_example_is_valid() -> None:
    """It is what every message points at."""
    assert load_config(EXAMPLE).keys


def test_control_changes_what_is_named_and_keeps_the_rest() -> None:
    """A key's state changes without its limits being repeated; a group's limits change wherever they stand."""
    config = parse_config(
        {
            "keys": [{"key": "a", "group": "g", "limits": {"rpm": 1}}, {"key": "b", "group": "g"}],
            "default_reply": "echo",
        },
        source="test",
    )

    after = changed(config, {"keys": {"b": {"state": "revoked", "limits": {"rpm": 9}}}, "faults": [{"kind": "reset"}]})

    assert [(key.key, key.state, key.limits.rpm if key.limits else None) for key in after.keys] == [
        ("a", "ok", 9),
        ("b", "revoked", 9),
    ]
    assert (after.default_reply, after.faults[0].kind) == ("echo", "reset")


@pytest.mark.parametrize("change", [{"port": 1}, [], {"keys": [{"state": "ok"}]}, {"faults": [{"kind": "?"}]}])
def test_control_refuses_what_it_cannot_change(change: object) -> None:
    """And changes nothing then."""
    with pytest.raises(ValueError, match="control"):
        changed(parse_config({}, source="test"), change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0s"),
        (12, "12ms"),
        (1000, "1s"),
        (1500, "1.5s"),
        (360_000, "6m0s"),
        (3_600_000, "1h0m0s"),
        (61_001, "1m1.001s"),
    ],
)
def test_go_durations_are_written_as_go_writes_them(milliseconds: int, text: str) -> None:
    """OpenAI's reset headers."""
    assert go_duration(milliseconds * 1_000_000) == text


def test_rfc3339_rounds_up_so_that_nobody_comes_early() -> None:
    """Anthropic's reset headers."""
    assert rfc3339(0.2) == "1970-01-01T00:00:01Z"
