"""What every section of the configuration is made of, and the limits that several of them hold."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from app.settings.fields import LIMIT_KIND, Burst, Limit


def setting(  # noqa: PLR0913  what a setting needs to say, keyword-only
    default: Any,
    meaning: str,
    *,
    kind: str,
    unit: str = "",
    example: str = "",
    without: str = "",
    alias: str | None = None,
) -> Any:
    """Declare a key; the rest documents it, ``without`` being what null or nothing comes to.

    ``alias`` is how the key is written where Python keeps the word to itself.
    """
    extra: dict[str, Any] = {"kind": kind, "unit": unit, "example": example, "without": without}
    if isinstance(default, type) and issubclass(default, dict | tuple | BaseModel):
        return Field(default_factory=default, description=meaning, json_schema_extra=extra, alias=alias)
    return Field(default, description=meaning, json_schema_extra=extra, alias=alias)


def _limit(unit: str, meaning: str, example: str) -> Any:
    return setting(None, meaning, kind=LIMIT_KIND, unit=unit, example=example)


class Section(BaseModel):
    """A mapping of the configuration; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @classmethod
    def by_key(cls) -> dict[str, FieldInfo]:
        """Return its fields by their keys, as those are written."""
        return {field.alias or name: field for name, field in cls.model_fields.items()}


class LimitsSection(Section):
    """Limits for one model. A key that is left out, or null, is unlimited.

    Under ``model_limits`` a key that is left out keeps the value of ``limits``.
    """

    rpm: Limit = _limit("requests per minute", "Requests.", "500")
    tpm: Limit = _limit("tokens per minute", "Input and output tokens together.", "200000")
    itpm: Limit = _limit("tokens per minute", "Input tokens, where the provider counts them apart.", "80000")
    otpm: Limit = _limit("tokens per minute", "Output tokens, where the provider counts them apart.", "16000")
    rpd: Limit = _limit("requests per day", "Requests of one day.", "10000")
    concurrency: Limit = _limit("calls", "Calls in flight at once.", "32")
    burst_s: Burst = setting(
        1.0,
        "What may be sent at once, as seconds of the steady rate; at least one request. With `window: bucket` in any "
        "w seconds at most limit × (w + burst_s) / 60 is admitted, rounded up to one request.",
        kind="number from 0 to 3600",
        unit="seconds",
        example="1",
    )
    window: Literal["bucket", "sliding"] = setting(
        "bucket",
        "`bucket`: a token bucket refilled at limit / 60 s. `sliding`: never more than the limit in any 60 s.",
        kind="`bucket` or `sliding`",
        example="sliding",
    )
    charge: Literal["max_tokens", "used"] = setting(
        "max_tokens",
        "What the provider counts against token limits: the most a call may generate, or what it generated.",
        kind="`max_tokens` or `used`",
        example="used",
    )
