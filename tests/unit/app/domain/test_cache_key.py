"""Equal calls have equal keys, and everything that can change the answer changes the key."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from typing import get_type_hints

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.domain import chat
from app.domain.cache_key import LIVE_EXTRA, NEUTRAL_EXTRA, cache_key
from app.domain.chat import (
    ChatRequest,
    ImagePart,
    Json,
    Message,
    OutputSchema,
    Role,
    ToolCall,
    ToolSpec,
)
from tests.architecture.any_value import AnyJson, values_of
from tests.effort import examples

SCHEMA: dict[str, Json] = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}}
FULL = ChatRequest(
    model="auto",
    messages=(
        Message(role=Role.SYSTEM, text="Be brief."),
        Message(
            role=Role.USER, text="Chào", images=(ImagePart(data_base64="AAAA", media_type="image/png", detail="low"),)
        ),
        Message(
            role=Role.ASSISTANT,
            tool_calls=(ToolCall(id="1", name="look", arguments="{}", signature="s"),),
            reasoning="hm",
            reasoning_signature="rs",
        ),
        Message(role=Role.TOOL, text="42", tool_call_id="1", name="look"),
    ),
    output_tokens_max=100,
    temperature=0.7,
    top_p=0.9,
    stop=("END",),
    seed=7,
    tools=(ToolSpec(name="look", description="looks", parameters=SCHEMA, strict=True),),
    tool_choice="auto",
    parallel_tool_calls=True,
    output=OutputSchema(name="o", schema=SCHEMA),
    reasoning_effort="low",
    choices=2,
    extra=(("top_k", "5"), ("verbosity", '"low"')),
)
HINTS = get_type_hints(ChatRequest, vars(chat), {"Json": AnyJson})
MESSAGE_HINTS = get_type_hints(Message, vars(chat), {"Json": AnyJson})
requests = values_of(ChatRequest)
NEUTRAL_FIELDS = {"user", "stream", "call_key", "lost_at_s", "begun_as"}


def key(request: ChatRequest, scope: str = "shared", models: tuple[str, ...] = ()) -> bytes:
    found = cache_key(request, scope, models)
    assert found is not None
    return found


@settings(deadline=None, max_examples=examples(50))
@given(requests, st.booleans(), st.none() | st.text(max_size=3))
def test_key_is_the_same_whoever_asks_and_however_it_is_sent(
    request: ChatRequest, stream: bool, user: str | None
) -> None:
    """An answer that was not streamed may be replayed as a stream, to another user of the same scope."""
    changed = replace(request, stream=stream, user=user, call_key=user, lost_at_s=float(stream), begun_as=user)
    assert cache_key(changed, "s") == cache_key(request, "s")


@pytest.mark.parametrize("name", sorted({field.name for field in fields(ChatRequest)} - NEUTRAL_FIELDS))
@settings(deadline=None, max_examples=examples(20))
@given(data=st.data())
def test_key_changes_with_every_field(name: str, data: st.DataObject) -> None:
    """Each field, those that are added later included, may change the answer."""
    value = data.draw(values_of(HINTS[name]))
    changed = replace(FULL, **{name: value})
    assume(not _same(value, getattr(FULL, name)))
    if name == "extra":
        assume(any(pair[0] not in NEUTRAL_EXTRA | LIVE_EXTRA for pair in value))

    assert cache_key(changed, "shared") != key(FULL)


def _same(one: object, other: object) -> bool:
    return repr(one) == repr(other) or (isinstance(one, float) and one == other)


@pytest.mark.parametrize("name", [field.name for field in fields(Message)])
@settings(deadline=None, max_examples=examples(20))
@given(data=st.data())
def test_key_changes_with_every_part_of_a_message(name: str, data: st.DataObject) -> None:
    """The conversation is what is asked, reasoning and signatures of earlier turns included."""
    index = data.draw(st.integers(0, len(FULL.messages) - 1))
    value = data.draw(values_of(MESSAGE_HINTS[name]))
    assume(not _same(value, getattr(FULL.messages[index], name)))
    messages = list(FULL.messages)
    messages[index] = replace(messages[index], **{name: value})

    assert cache_key(replace(FULL, messages=tuple(messages)), "shared") != key(FULL)


def test_key_changes_with_scope_and_models() -> None:
    """One caller's answers are not another's; ``auto`` is not the same question after its models changed."""
    keys = {
        key(FULL),
        key(FULL, scope="team a"),
        key(FULL, models=("x",)),
        key(FULL, models=("x", "y")),
        key(FULL, models=("y", "x")),
    }

    assert len(keys) == 5


def test_key_does_not_run_texts_together() -> None:
    """Where one text ends and the next begins is part of the question."""
    one = ChatRequest(model="m", messages=(Message(role=Role.USER, text='a","b'), Message(role=Role.USER, text="")))
    other = ChatRequest(model="m", messages=(Message(role=Role.USER, text="a"), Message(role=Role.USER, text='","b')))

    assert key(one) != key(other)


def test_key_ignores_the_order_of_extra_and_who_it_names() -> None:
    """Clients write their fields in any order, and name their user in several."""
    other = (*reversed(FULL.extra), ("safety_identifier", '"u1"'), ("metadata", '{"user_id": "u1"}'))

    assert key(replace(FULL, extra=other)) == key(FULL)


def test_key_takes_one_for_one_point_zero() -> None:
    """The same number, written as clients do."""
    assert key(replace(FULL, temperature=1, top_p=1)) == key(replace(FULL, temperature=1.0, top_p=1.0))


def test_key_keeps_the_order_of_properties() -> None:
    """Models fill a schema in the order of its properties: reasoning before verdict is another question."""
    turned: dict[str, Json] = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "string"}}}

    assert key(replace(FULL, output=OutputSchema(name="o", schema=turned))) != key(FULL)


@pytest.mark.parametrize("name", sorted(LIVE_EXTRA))
def test_call_that_depends_on_more_than_the_request_is_not_cached(name: str) -> None:
    """A search finds other things tomorrow; what the provider stores is asked for by its id."""
    assert cache_key(replace(FULL, extra=((name, '{"a": 1}'),)), "s") is None
    assert cache_key(replace(FULL, extra=((name, "true"),)), "s") is None
    assert cache_key(replace(FULL, extra=((name, " false"),)), "s") is not None
    assert cache_key(replace(FULL, extra=((name, "null"),)), "s") is not None
    assert cache_key(replace(FULL, anthropic_fields={name: {"a": 1}}), "s") is None
    assert cache_key(replace(FULL, anthropic_fields={name: None}), "s") is not None


def test_image_behind_an_address_is_not_cached() -> None:
    """Another picture may stand there the next time."""
    asked = Message(role=Role.USER, text="What is it?", images=(ImagePart(url="https://example.com/now.png"),))

    assert cache_key(replace(FULL, messages=(asked,)), "s") is None


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_text_that_json_cannot_carry_is_not_cached(text: str) -> None:
    """It is not ours to fail a call over: the adapter refuses it by name."""
    assert cache_key(replace(FULL, messages=(Message(role=Role.USER, text=text),)), "s") is None


def test_key_is_the_same_in_another_process() -> None:
    """Python's own hashes differ from process to process; a cache that replicas may share must not use them."""
    code = (
        "from app.domain.cache_key import cache_key\n"
        "from app.domain.chat import ChatRequest, Message, Role\n"
        "messages = (Message(role=Role.USER, text='Chào'),)\n"
        "request = ChatRequest(model='m', messages=messages, extra=(('b', '1'), ('a', '2')))\n"
        "print(cache_key(request, 's', ('m',)).hex())"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    request = ChatRequest(model="m", messages=(Message(role=Role.USER, text="Chào"),), extra=(("a", "2"), ("b", "1")))

    assert printed == [key(request, "s", ("m",)).hex()] * 2
