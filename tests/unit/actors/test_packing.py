"""What is packed comes out as it went in, and errors travel as they always do."""

from __future__ import annotations

import pytest

from actors.packing import Packed, pack, unpack
from app.domain.chat import Usage
from app.domain.errors import NotFoundError


class Adder(Packed):
    """An actor of one method."""

    async def add(self, one: Usage, another: Usage) -> Usage:
        if not another.input_tokens:
            raise NotFoundError("nothing to add", param="another")
        return Usage(input_tokens=one.input_tokens + another.input_tokens, output_tokens=0)


async def test_arguments_and_answers_travel_packed() -> None:
    """The method itself knows nothing of it."""
    arguments = pack((Usage(input_tokens=1, output_tokens=0), Usage(input_tokens=2, output_tokens=0)))

    answer = unpack(await Adder().packed("add", arguments))

    assert answer == Usage(input_tokens=3, output_tokens=0)


async def test_an_error_is_raised_not_packed() -> None:
    """Whoever asks catches it as from any other method."""
    nothing = Usage(input_tokens=0, output_tokens=0)

    with pytest.raises(NotFoundError) as refused:
        await Adder().packed("add", pack((nothing, nothing)))
    assert refused.value.param == "another"
