"""When a call's task type is found by a model, and when nobody is asked for it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from app.domain.accounts import GatewaySpec, RouteSpec
from app.domain.errors import RequestError
from app.domain.gateway import Asked
from tests.fakes.permit_world import play
from tests.fakes.virtual_time import VirtualClock
from tests.unit.app.services.gateway.test_gateway import CHAT, Scene, a_scene

ASKS = GatewaySpec(classifier="m")
NEVER_ASKS = GatewaySpec()


def with_routes(scene: Scene) -> None:
    """Let there be task types."""
    routes = tuple(RouteSpec(task_type=name, primary=("m",)) for name in ("general", "translation"))
    roster = scene.world.rosters[0]
    roster._orchestra = replace(roster.orchestra(), routes=routes)
    scene.upstream.seconds = 0.1  # before the roster is told again


@pytest.mark.parametrize(
    ("spec", "model", "task_type", "sent"),
    [
        (ASKS, "auto", None, 2),
        (ASKS, "auto", "translation", 1),
        (ASKS, "m", None, 1),
        (NEVER_ASKS, "auto", None, 1),
    ],
)
def test_classifier_is_asked_only_where_a_call_to_auto_names_no_task_type_and_one_is_configured(
    spec: GatewaySpec, model: str, task_type: str | None, sent: int
) -> None:
    """Nobody pays for a guess that decides nothing."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock, spec=spec) as scene:
            with_routes(scene)
            asked = Asked(chat=replace(CHAT, model=model), task_type=task_type)
            result, _facts = await scene.gateway.complete(replace(scene.call(), asked=asked))
            await asyncio.sleep(3.0)

            assert result.text == "hi"
            assert scene.upstream.sent == sent

    play(story)


def test_unknown_task_type_is_refused_by_its_name() -> None:
    """With those there are."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock) as scene:
            with_routes(scene)
            asked = Asked(chat=replace(CHAT, model="auto"), task_type="poetry")
            with pytest.raises(RequestError, match="poetry") as refused:
                await scene.gateway.complete(replace(scene.call(), asked=asked))

            assert refused.value.param == "task_type"
            assert "translation" in (refused.value.remedy or "")
            assert scene.upstream.sent == 0

    play(story)
