"""What was streamed is put together as it was."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from app.domain.chat import ChatDelta, ChatResult, FinishReason, ToolCall, Usage
from app.domain.gathered import Gathered
from app.domain.response_cache import replay

TEXTS = st.text(max_size=600)
TOOLS = st.builds(
    ToolCall,
    id=st.text(min_size=1),
    name=st.text(min_size=1),
    arguments=st.text(),
    signature=st.sampled_from([None, "s"]),
)
CHOICES = st.builds(
    ChatResult,
    text=TEXTS,
    reasoning=st.none() | st.text(min_size=1, max_size=600),
    reasoning_signature=st.sampled_from([None, "signed"]),
    tool_calls=st.lists(TOOLS, max_size=3).map(tuple),
    finish_reason=st.sampled_from(FinishReason),
    stop_sequence=st.sampled_from([None, "END"]),
)


@given(st.lists(CHOICES, min_size=1, max_size=3))
def test_a_replayed_answer_is_gathered_as_it_was(choices: list[ChatResult]) -> None:
    """Whatever it is made of."""
    usage = Usage(input_tokens=3, output_tokens=5)
    answer = replace(choices[0], usage=usage, model="m-1", provider_id="r1", other_choices=tuple(choices[1:]))
    gathered = Gathered()
    for delta in replay(answer):
        gathered.add(delta)

    assert gathered.result() == answer


def test_an_answer_that_has_not_come_to_its_end_is_none() -> None:
    """A stream that broke off must not be given to anybody as whole."""
    gathered = Gathered()
    assert gathered.result() is None

    gathered.add(ChatDelta(text="half"))
    gathered.add(ChatDelta(text="whole", choice=1, finish_reason=FinishReason.STOP))

    assert gathered.result() is None
