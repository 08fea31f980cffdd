"""A scripted model caller, and small orchestras to play with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from app.domain.accounts import (
    AccountSpec,
    CoordinatorSpec,
    ModelInfo,
    Orchestra,
    Provider,
    RouteSpec,
    StructuredOutput,
    Tier,
)
from app.domain.calls import CallAnswer, ModelCall
from app.domain.chat import ChatResult, FinishReason, Usage
from app.domain.limits import LimitSpec
from app.domain.run import RunRecord, RunRequest, RunStatus
from app.services.context import RunContext

Reply = str | ChatResult | Exception
USAGE = Usage(input_tokens=100, output_tokens=20)

REASONER = ModelInfo(
    name="thinker",
    family="deepseek",
    tier=Tier.STRONG,
    reasoning=True,
    structured=StructuredOutput.NONE,
    input_usd_per_mtok="0.5",
    output_usd_per_mtok="2",
)
STRICT = ModelInfo(name="strict", family="openai", tier=Tier.STANDARD, input_usd_per_mtok="1", output_usd_per_mtok="4")
TINY = ModelInfo(
    name="tiny",
    family="smollm",
    tier=Tier.TINY,
    context_tokens=2_048,
    output_tokens_max=1_024,
    input_usd_per_mtok="0",
    output_usd_per_mtok="0",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedClock:
    """A clock that stands still."""

    now_s: float = 1_000_000.0

    def monotonic_ns(self) -> int:
        return 5_000_000_000

    def wall_s(self) -> float:
        return self.now_s


@dataclass(slots=True)
class ScriptedCaller:
    """Answers calls from a script: a list of replies in order, or a function of the call."""

    script: Sequence[Reply] | Callable[[ModelCall], Reply]
    calls: list[ModelCall] = field(default_factory=list)

    async def call(self, call: ModelCall) -> CallAnswer:
        self.calls.append(call)
        reply = self.script(call) if callable(self.script) else self.script[len(self.calls) - 1]
        if isinstance(reply, Exception):
            raise reply
        result = ChatResult(text=reply, usage=USAGE) if isinstance(reply, str) else reply
        return CallAnswer(
            call_id=call.call_id,
            account=f"account-{len(self.calls)}",
            model=call.models[0],
            result=result,
            usage=result.usage,
            cost_usd="0",
            queued_at_s=1.0,
            started_at_s=1.0,
            finished_at_s=2.0,
            tries=1,
        )

    def prompt(self, index: int) -> str:
        """Return everything that the call of that number showed the model."""
        return "\n".join(message.text for message in self.calls[index].request.messages)


def cut_off(text: str) -> ChatResult:
    """Return an answer that ended at its token limit."""
    return ChatResult(text=text, finish_reason=FinishReason.LENGTH, usage=USAGE)


def orchestra(model: ModelInfo = STRICT, *others: ModelInfo, **coordinator: object) -> Orchestra:
    """Return an orchestra led by ``model``, with every model on one account; fields of the coordinator by name."""
    models = (model, *others)
    account = AccountSpec(
        name="one",
        provider=Provider.CUSTOM,
        models=tuple((each.name, each.name) for each in models),
        limits=tuple((each.name, LimitSpec(rpm=60, concurrency=4)) for each in models),
    )
    spec = CoordinatorSpec(
        model=model.name,
        requested_model=model.name,
        judge_model=model.name,
        clarify_model=model.name,
        transcribe_model=model.name,
    )
    names = tuple(each.name for each in models)
    routes = tuple(RouteSpec(task_type=name, primary=names) for name in ("general", "writing", "translation"))
    return Orchestra(
        version=1,
        accounts=(account,),
        models=models,
        routes=routes,
        coordinator=replace(spec, **coordinator),  # type: ignore[arg-type]
        data_dir="data",
    )


def context(text: str, *, timeout_s: float | None = None) -> RunContext:
    """Return the context of a run that asks for ``text``."""

    @dataclass(frozen=True)
    class Tools:
        clock: FixedClock
        orchestra: Orchestra

    record = RunRecord(
        run_id="run-1",
        status=RunStatus.ACCEPTED,
        request=RunRequest(text=text, timeout_s=timeout_s),
        created_s=1_000_000.0,
        updated_s=1_000_000.0,
    )
    return RunContext.of(record, Tools(clock=FixedClock(), orchestra=orchestra()))
