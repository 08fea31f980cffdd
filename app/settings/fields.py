"""The kinds of values a configuration may hold, each with its own check and words; used by ``schema`` only.

Every refusal is a ``PydanticCustomError`` of type ``tutti`` whose context holds the message and the remedy, so that
``validation`` need not guess. No message holds the value: ``validation`` adds it as it stands in the source.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from app.domain.callers import KEY_CHARS_MAX, hash_key

COUNT_MAX = 10**12
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
GATEWAY_KEY_CHARS_MIN = 8
_KEY_HASH = re.compile(r"sha256:([0-9a-fA-F]{64})")
_TASK_TYPE = re.compile(r"[a-z][a-z0-9_]{0,39}")


def refusal(message: str, remedy: str) -> PydanticCustomError:
    """Return the error that refuses a value."""
    return PydanticCustomError("tutti", "{message}", {"message": message, "remedy": remedy})


def whole(minimum: int, maximum: int, *, what: str, remedy: str) -> Callable[[object], object]:
    """Return a check for whole numbers within bounds; text of digits counts, since variables are text."""

    def check(value: object) -> object:
        number = _whole_number(value)
        if number is None or not minimum <= number <= maximum:
            raise refusal(f"must be {what}", remedy)
        return number

    return check


def _whole_number(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"\s*[-+]?[0-9][0-9_]{0,15}\s*", value):
        return int(value)
    return None


def _limit(value: object) -> object:
    check = whole(
        1, COUNT_MAX, what="a positive whole number, or null", remedy="write 1 or more, or null for unlimited"
    )
    return None if value is None else check(value)


def seconds(minimum: float, maximum: float) -> Callable[[object], object]:
    """Return a check for a duration in seconds within bounds."""

    def check(value: object) -> object:
        number = _number(value)
        if number is None or not minimum <= number <= maximum:
            raise refusal(
                f"must be a number of seconds from {minimum:g} to {maximum:g}",
                f"write a number from {minimum:g} to {maximum:g}",
            )
        return number

    return check


def _burst(value: object) -> object:
    number = seconds(0, 3_600)(value)
    assert isinstance(number, float), "checked above"
    if Decimal(str(number)) * 1_000 % 1:
        raise refusal("must not be finer than a millisecond", "write at most three decimals")
    return number


def share(value: object) -> object:
    """Check a number from 0 to 1."""
    number = _number(value)
    if number is None or not 0 <= number <= 1:
        raise refusal("must be a number from 0 to 1", "write for instance 0.2")
    return number


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _positive(value: object) -> object:
    number = _number(value)
    if number is None or number < 0:
        raise refusal("must be a number, 0 or more", "write for instance 1.0")
    return number


def _ratio(value: object) -> object:
    number = _number(value)
    if number is None or not 0.5 <= number <= 10:
        raise refusal("must be a number from 0.5 to 10", "write for instance 4.0")
    return number


def _price(value: object) -> object:
    if value is None:
        return None
    number = None
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = Decimal(str(value))
        except InvalidOperation:
            number = None
    if number is None or not number.is_finite() or not 0 <= number <= 100_000:
        raise refusal("must be a price in USD for a million tokens", "write a number, 0 for free, null for unknown")
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _text(value: object) -> object:
    if not isinstance(value, str):
        raise refusal("must be text", "put it in quotes")
    text = value.strip()
    if not text:
        raise refusal("must not be empty", "write a value, or delete the line")
    if len(text) > 500 or not text.isprintable():
        raise refusal("must be one printable line of at most 500 characters", "shorten it")
    return text


def _name(value: object) -> object:
    text = _text(value)
    if not isinstance(text, str) or not _NAME.fullmatch(text):
        raise refusal(
            "must be a name of letters, digits, '.', '_' and '-', at most 64 of them", "write for instance openai-a"
        )
    return text


def task_type(value: str) -> str:
    """Check the name of a task type."""
    if not _TASK_TYPE.fullmatch(value):
        raise refusal("a task type is written in small letters, digits and '_'", "write for instance code_generation")
    return value


def _secret(value: object) -> object:
    if not isinstance(value, str):
        raise refusal("must be text", "put it in quotes, or better ${NAME} of an environment variable")
    text = value.strip()
    if not text:
        raise refusal("must not be empty", "write ${NAME} of the environment variable that holds the key")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise refusal("holds spaces, control characters or letters that no key has", "copy the key again")
    return text


def _gateway_key(value: object) -> object:
    """Check a key in clear and return its hash: nothing behind this line sees the key."""
    text = _secret(value)
    assert isinstance(text, str), "checked above"
    if not GATEWAY_KEY_CHARS_MIN <= len(text) <= KEY_CHARS_MAX:
        raise refusal(
            f"must be a key of {GATEWAY_KEY_CHARS_MIN} to {KEY_CHARS_MAX} characters",
            "make one with `openssl rand -hex 24`",
        )
    return hash_key(text)


def _key_hash(value: object) -> object:
    match = _KEY_HASH.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise refusal(
            "must be sha256: and 64 hexadecimal digits", "write what `printf %s KEY | sha256sum` prints after `sha256:`"
        )
    return match.group(1).lower()


def _weight(value: object) -> object:
    number = _number(value)
    if number is None or not 0.001 <= number <= 1_000:
        raise refusal("must be a number from 0.001 to 1000", "write for instance 1.0")
    return number


def _classifier(value: object) -> object:
    if value is None or value is False or value == "false":
        return None
    if value is True:
        raise refusal("must be false or a model", "name the model that classifies")
    return _model_name(value)


def _origin(value: object) -> object:
    remedy = "write for instance https://app.example.com, or '*' for all"
    text = _text(value)
    assert isinstance(text, str), "checked above"
    if text == "*":
        return text
    address = _base_url(text)
    assert isinstance(address, str), "checked above"
    if urlsplit(address).path:
        raise refusal("an origin has no path", remedy)
    return address.lower()


def _base_url(value: object) -> object:
    if not isinstance(value, str):
        raise refusal("must be text", "write https://host/v1")
    text = value.strip()
    remedy = "write for instance https://api.example.com/v1"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise refusal("is not an address", remedy) from None
    if parts.scheme not in ("http", "https"):
        raise refusal("must begin with http:// or https://", remedy)
    if not parts.hostname or port == 0 or not text.isprintable() or " " in text:
        raise refusal("is not an address", remedy)
    if parts.username is not None or parts.password is not None:
        raise refusal("must not hold a user name or password", "put the key into api_key")
    if parts.query or parts.fragment:
        raise refusal("must not hold a query or fragment", "end it with the path, for instance /v1")
    return text.rstrip("/")


def _store_url(value: object) -> object:
    if value is None:
        return None
    remedy = "write postgresql://USER:${PASSWORD_VARIABLE}@HOST:5432/DATABASE, or null for the file in data_dir"
    if not isinstance(value, str):
        raise refusal("must be text", remedy)
    text = value.strip()
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise refusal("is not an address (special characters of a password are written as %XX)", remedy) from None
    if parts.scheme not in ("postgresql", "postgres"):
        raise refusal("must begin with postgresql://", remedy)
    if port == 0 or not text.isprintable() or " " in text or parts.fragment:
        raise refusal("is not an address (special characters of a password are written as %XX)", remedy)
    if not parts.path.strip("/"):
        raise refusal("must name a database after the host", remedy)
    return text


def _served(value: object) -> object:
    remedy = "write a model's name, or {name: upstream's name}"
    if isinstance(value, dict):
        if len(value) != 1:
            raise refusal("an alias is one pair", remedy)
        ((name, upstream),) = value.items()
        return (_model_name(name), _model_name(upstream))
    if isinstance(value, tuple) and len(value) == 2:
        return value
    if not isinstance(value, str):
        raise refusal("must be a model's name", remedy)
    return (_model_name(value), "")


def _model_name(value: object) -> str:
    text = _text(value)
    if not isinstance(text, str) or any(letter.isspace() for letter in text) or len(text) > 200:
        raise refusal("a model's name has no spaces", "write the name as the provider spells it")
    return text


def _empty_if_null(value: object) -> object:
    return {} if value is None else value


def _option(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else _text(value)


LIMIT_KIND = "positive whole number, or null for unlimited"
Limit = Annotated[int | None, BeforeValidator(_limit)]
Burst = Annotated[float, BeforeValidator(_burst)]
Price = Annotated[str | None, BeforeValidator(_price)]
Text = Annotated[str, BeforeValidator(_text)]
Name = Annotated[str, BeforeValidator(_name)]
Secret = Annotated[str, BeforeValidator(_secret)]
BaseUrl = Annotated[str, BeforeValidator(_base_url)]
StoreUrl = Annotated[str | None, BeforeValidator(_store_url)]
ModelName = Annotated[str, BeforeValidator(_model_name)]
ServedModel = Annotated[tuple[str, str], BeforeValidator(_served)]
"""(public name, upstream's name); the second empty where only one was written."""
Share = Annotated[float, BeforeValidator(share)]
Positive = Annotated[float, BeforeValidator(_positive)]
Ratio = Annotated[float, BeforeValidator(_ratio)]
GatewayKey = Annotated[str, BeforeValidator(_gateway_key)]
"""A key in clear going in, the hex of its SHA-256 coming out."""
KeyHash = Annotated[str, BeforeValidator(_key_hash)]
"""``sha256:<hex>`` going in, the hex coming out."""
Weight = Annotated[float, BeforeValidator(_weight)]
Classifier = Annotated[str | None, BeforeValidator(_classifier)]
Origin = Annotated[str, BeforeValidator(_origin)]
Option = Annotated[str, BeforeValidator(_option)]
EMPTY_IF_NULL = BeforeValidator(_empty_if_null)
"""For sections: a key whose lines are all commented out is an empty section."""
