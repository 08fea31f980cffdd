"""Scripted replies say what the script says, filled with what the request said."""

from __future__ import annotations

from pydantic import JsonValue

from app.simulator.config import SimulatorConfig, parse_config
from app.simulator.exchange import ChatRequest
from app.simulator.templates import Script, fill_json, fill_text


def asked(text: str, **fields: object) -> ChatRequest:
    return ChatRequest(format="openai", model="m", text=text, last_text=text, **fields)  # type: ignore[arg-type]


def a_config(**fields: object) -> SimulatorConfig:
    return parse_config(fields, source="test")


def test_fill_text_replaces_captures_and_leaves_other_braces() -> None:
    """JSON and code in a template keep their braces."""
    assert fill_text('{"a": {name}} {other}', {"name": "x"}) == '{"a": x} {other}'


def test_fill_json_makes_one_item_per_match_with_inner_and_outer_captures() -> None:
    """What a planner's or judge's scripted answer needs: a list as long as the request's."""
    template: JsonValue = {
        "items": {"$for_each": r"\[(?P<id>\w+)\] (?P<what>[^\n]+)", "$item": {"id": "{id}", "n": ["{what} of {run}"]}}
    }

    filled = fill_json(template, {"run": "r7"}, '[t1] cook "rice"\n[t2] eat')

    assert filled == {"items": [{"id": "t1", "n": ['cook "rice" of r7']}, {"id": "t2", "n": ["eat of r7"]}]}


def test_script_matches_across_lines_and_the_first_rule_wins() -> None:
    """Expressions see the whole request as one text."""
    config = a_config(
        replies=[
            {"match": {"regex": "begin.*(?P<word>end)"}, "text": "got {word}"},
            {"match": {"contains": "begin"}, "text": "second"},
        ]
    )
    found = Script(config.replies).find(asked("begin\nmiddle\nend"), "k")

    assert found is not None
    assert (found[0].text, found[1]["word"]) == ("got {word}", "end")


def test_script_gives_the_nth_request_the_nth_reply_and_repeats_the_last() -> None:
    """First fail, then do well: how a redo is rehearsed."""
    config = a_config(replies=[{"match": {"contains": "x"}, "sequence": [{"text": "1"}, {"text": "2"}]}])
    script = Script(config.replies)

    texts = [found[0].text for found in (script.find(asked("x"), "k") for _ in range(3)) if found is not None]

    assert texts == ["1", "2", "2"]


def test_script_matches_what_stands_in_the_body_and_not_in_the_text() -> None:
    """An image is no text; that it arrived can be answered all the same."""
    script = Script(a_config(replies=[{"match": {"contains": "look", "body": "iVBORw0"}, "text": "seen"}]).replies)

    assert script.find(asked("look", body=b'{"data": "iVBORw0KGgo="}'), "k") is not None
    assert script.find(asked("look", body=b'{"data": ""}'), "k") is None
    assert script.find(asked("look iVBORw0"), "k") is None


def test_script_matches_by_key_model_format_and_schema_name() -> None:
    """Every condition that is given must hold."""
    config = a_config(
        replies=[{"match": {"key": "k", "model": "m", "format": "openai", "schema_name": "plan"}, "text": "p"}]
    )
    script = Script(config.replies)

    assert script.find(asked("", schema_name="plan"), "k") is not None
    assert script.find(asked("", schema_name="plan"), "other") is None
    assert script.find(asked("", schema_name="judge"), "k") is None
