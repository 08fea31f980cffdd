"""The simulator's configuration: YAML validated once, at the edge; a mistake names its field and the remedy.

The commented example is ``examples/sim.yaml``; ``docs/simulator.md`` has the table.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

Format = Literal["openai", "anthropic", "gemini"]
FORMATS: tuple[Format, ...] = ("openai", "anthropic", "gemini")
Distribution = Literal["constant", "uniform", "lognormal", "exponential"]
FaultKind = Literal[
    "http_400", "http_401", "http_402", "http_403", "http_404", "http_413", "http_429", "http_500", "http_503",
    "http_504", "http_529", "cut_stream", "cut_before_first", "reset", "hang", "garbage_json", "blank_content",
    "slow_drip", "truncated_json", "stall", "error_event", "bill_then_500", "accept_then_drop", "think_tags",
    "prose_json", "dead_key", "no_balance", "too_long", "slow_first", "duplicate", "no_resources",
]  # fmt: skip
BillOnDisconnect = Literal["all", "partial", "as_provider"]
Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A part of the configuration that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Latency(Section):
    """Time until the first byte of an answer."""

    kind: Distribution = "constant"
    mean_s: Seconds = 0.05
    sigma: Annotated[float, Field(ge=0)] = 0.5
    """Spread of ``lognormal``: the standard deviation of the logarithm."""
    min_s: Seconds = 0.0
    max_s: Seconds = 10.0
    """Bounds of every kind but ``constant``; ``uniform`` draws between them and ignores the mean."""

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min_s > self.max_s:
            raise ValueError("min_s is above max_s; give min_s <= max_s")
        if self.kind == "uniform" and "max_s" not in self.model_fields_set:
            raise ValueError("uniform draws between min_s and max_s; give max_s")
        return self


class OutputTokens(Section):
    """Length of generated replies."""

    kind: Distribution = "constant"
    mean: Annotated[float, Field(gt=0)] = 60
    sigma: Annotated[float, Field(ge=0)] = 0.5
    min: Positive = 1
    max: Positive = 8_000

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min > self.max:
            raise ValueError("min is above max; give min <= max")
        if self.kind == "uniform" and "max" not in self.model_fields_set:
            raise ValueError("uniform draws between min and max; give max")
        return self


class Profile(Section):
    """How a model behaves where no reply says otherwise."""

    latency: Latency = Latency()
    tokens_per_s: Annotated[float, Field(gt=0)] | None = None
    """Generation speed; null sends everything at once."""
    output_tokens: OutputTokens = OutputTokens()
    chunk_tokens: Positive = 1
    reasoning_tokens: Annotated[int, Field(ge=0)] = 0
    cached_tokens: Annotated[int, Field(ge=0)] = 0
    """Prompt tokens reported as read from the cache, at most the prompt's own."""
    dialect: Literal["openai", "deepseek"] = "openai"
    """``deepseek``: cache hits in its own usage fields, usage on the last chunk with a choice, 402 for no balance."""
    deepseek_keepalive: bool = False
    """Blank lines and ``: keep-alive`` comments while an answer is queued."""
    embedding_dimensions: Positive = 1536
    embedding_inputs_max: Positive | None = None


class Model(Profile):
    """One served model; a field that is not given is the profile's."""

    context_tokens: Positive | None = None
    formats: tuple[Format, ...] = FORMATS


class Limits(Section):
    """Limits of one key or group, per model; null is unlimited."""

    rpm: Positive | None = None
    tpm: Positive | None = None
    itpm: Positive | None = None
    otpm: Positive | None = None
    rpd: Positive | None = None
    concurrency: Positive | None = None
    burst_s: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """Capacity of a bucket, in seconds of its rate."""
    window: Literal["bucket", "sliding"] = "bucket"
    charge: Literal["max_tokens", "used"] = "max_tokens"


class Key(Section):
    """One API key."""

    key: Annotated[str, Field(min_length=1)]
    group: str | None = None
    state: Literal["ok", "revoked", "no_balance"] = "ok"
    limits: Limits | None = None
    model_limits: dict[str, Limits] = {}
    headers: bool = True
    """Whether answers carry rate-limit headers."""


class FaultMatch(Section):
    """Which requests a fault may hit; what is not given matches everything."""

    key: str | None = None
    model: str | None = None
    format: Format | None = None
    contains: str | None = None
    stream: bool | None = None


class Fault(Section):
    """One fault and when it happens; without a schedule, to every matching request."""

    match: FaultMatch = FaultMatch()
    every: Positive | None = None
    first: Positive | None = None
    probability: Annotated[float, Field(ge=0, le=1)] | None = None
    between_s: tuple[Seconds, Seconds] | None = None
    """Seconds since the start or the last reset; may stand beside one of the other three."""
    kind: FaultKind
    at_chunk: Annotated[int, Field(ge=0)] | None = None
    """After how many stream chunks; default: half of them."""
    retry_after: str | int | float | None = None
    quota_id: str | None = None
    """Gemini's quotaId; for OpenAI the error code, unless it contains ``PerDay``."""
    seconds: Annotated[float, Field(gt=0)] | None = None
    """Length of ``hang`` and ``stall`` (default: for ever), pause of ``slow_drip`` (1) and ``slow_first`` (5)."""

    @field_validator("retry_after")
    @classmethod
    def _header_text(cls, value: str | int | float | None) -> str | int | float | None:
        if isinstance(value, str) and not re.fullmatch(r"[\x20-\x7e]+", value):
            raise ValueError("goes into a header: printable ASCII only")
        return value

    @model_validator(mode="after")
    def _one_schedule(self) -> Self:
        given = [name for name in ("every", "first", "probability") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other; keep one")
        if self.between_s is not None and self.between_s[0] >= self.between_s[1]:
            raise ValueError("between_s must be [from, to] with from < to")
        return self


class ToolCallTemplate(Section):
    """A tool call of a scripted reply."""

    name: str
    arguments: dict[str, JsonValue] = {}


class Reply(Section):
    """What a scripted reply says; what it leaves out is generated."""

    text: str | None = None
    json_: JsonValue = Field(default=None, alias="json")
    reasoning: str | None = None
    tool_calls: tuple[ToolCallTemplate, ...] = ()
    finish_reason: str | None = None
    latency: Latency | None = None
    output_tokens: OutputTokens | None = None
    tokens_per_s: Annotated[float, Field(gt=0)] | None = None

    @property
    def has_json(self) -> bool:
        """Whether ``json`` was given, ``null`` included."""
        return "json_" in self.model_fields_set

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if self.text is not None and self.has_json:
            raise ValueError("text and json exclude each other; keep one")
        return self

    @field_validator("json_")
    @classmethod
    def _regexes_compile(cls, value: JsonValue) -> JsonValue:
        _check_for_each(value)
        return value


class ReplyMatch(Section):
    """Which requests a scripted reply answers."""

    contains: str | None = None
    body: str | None = None
    """Stands somewhere in the request as it came, JSON and all."""
    regex: str | None = None
    model: str | None = None
    key: str | None = None
    format: Format | None = None
    schema_name: str | None = None

    @field_validator("regex")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            _check_regex(value)
        return value


class ReplyRule(Reply):
    """A scripted reply and the requests it answers; ``sequence`` gives the n-th of them its n-th reply."""

    match: ReplyMatch = ReplyMatch()
    sequence: tuple[Reply, ...] = ()

    @model_validator(mode="after")
    def _sequence_or_reply(self) -> Self:
        beside = self.model_fields_set - {"match", "sequence"}
        if self.sequence and beside:
            raise ValueError("sequence stands alone; move the other fields into its replies")
        return self


class SimulatorConfig(Section):
    """All that a simulator does."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 9100
    seed: int = 7
    profile: Profile = Profile()
    models: dict[str, Model] = {}
    keys: tuple[Key, ...] = ()
    """Empty accepts any key, without limits."""
    faults: tuple[Fault, ...] = ()
    replies: tuple[ReplyRule, ...] = ()
    default_reply: Literal["lorem", "echo", "schema"] = "schema"
    deepseek_keepalive: bool = False
    bill_on_disconnect: BillOnDisconnect = "partial"
    """``as_provider``: partial for streams of OpenAI and Anthropic, all for those of Gemini and for whole answers."""
    idempotency: bool = False
    """Honours ``Idempotency-Key``: the same key again gets the same answer, billed once, whoever left the first."""
    store_lag_s: Seconds = 0.0
    """How long a completion that was to be stored (OpenAI's ``store``), or a batch, is not listed yet."""
    batch_delay_s: Seconds = 0.0
    """How long a batch waits before its first request is answered."""
    log_rows_max: Annotated[int, Field(ge=0)] = 100_000

    @model_validator(mode="after")
    def _keys_agree(self) -> Self:
        names = [key.key for key in self.keys]
        if len(set(names)) < len(names):
            raise ValueError("keys: a key is listed twice; list each once")
        stated: dict[str, tuple[Limits | None, dict[str, Limits]]] = {}
        for key in self.keys:
            if key.group is None or (key.limits is None and not key.model_limits):
                continue
            if stated.setdefault(key.group, (key.limits, key.model_limits)) != (key.limits, key.model_limits):
                raise ValueError(f"keys of group {key.group!r} state different limits; state them on one of its keys")
        return self

    def profile_of(self, model: str) -> Profile:
        """Return how ``model`` behaves: its own fields over the profile's."""
        base = self.profile
        if self.deepseek_keepalive:
            base = base.model_copy(update={"deepseek_keepalive": True})
        own = self.models.get(model)
        if own is None:
            return base
        changes: dict[str, object] = {}
        for name in own.model_fields_set & set(Profile.model_fields):
            value = getattr(own, name)
            if isinstance(value, Latency | OutputTokens):
                fields = {part: getattr(value, part) for part in value.model_fields_set}
                value = getattr(base, name).model_copy(update=fields)
            changes[name] = value
        return base.model_copy(update=changes)


def load_config(path: Path) -> SimulatorConfig:
    """Read and validate a configuration file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is wrong; the message names every wrong field and the remedy.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    return parse_config({} if document is None else document, source=str(path))


def parse_config(document: object, *, source: str) -> SimulatorConfig:
    """Validate a decoded configuration.

    Raises:
        ValueError: it is wrong; the message names every wrong field and the remedy.
    """
    if not isinstance(document, dict):
        raise ValueError(f"{source}: must be a mapping of fields such as port, models, keys; see examples/sim.yaml")
    try:
        return SimulatorConfig.model_validate(document)
    except ValidationError as error:
        lines = [f"{source}: {_field(mistake['loc'])}: {_remedy(mistake['type'], mistake['msg'])}"
                 for mistake in error.errors(include_url=False, include_input=False)]  # fmt: skip
        raise ValueError("\n".join(lines)) from None


def _field(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "configuration"


def _remedy(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "unknown field; remove it or correct its spelling (examples/sim.yaml lists all fields)"
    if kind == "missing":
        return "required; add it"
    return message.removeprefix("Value error, ")


def _check_regex(pattern: str) -> None:
    try:
        re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}; correct it") from None


def _check_for_each(template: JsonValue) -> None:
    if isinstance(template, list):
        for item in template:
            _check_for_each(item)
    elif isinstance(template, dict):
        if "$for_each" in template:
            pattern = template["$for_each"]
            if not isinstance(pattern, str) or set(template) != {"$for_each", "$item"}:
                raise ValueError('"$for_each" takes a regular expression and stands beside "$item" only')
            _check_regex(pattern)
        for value in template.values():
            _check_for_each(value)
