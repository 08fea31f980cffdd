"""Turns what happened into the document that everybody downstream passes on as it is: one serialisation, at the source.

The shape of every type is worked out once; a document is then one walk over the values given. Called by the emitter of
each process and by the store, which hand in time and chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from app.domain.events.fields import DEFAULT_PROFILE, ECS_VERSION, FIELD, SCHEMA, FieldType, Profile
from app.domain.events.schema import TYPE, EventType

NS_PER_S = 1_000_000_000
CHECKED = 50
"""Events of each type whose values are checked one by one, in every process: a wrong one shows at once, and looking at
all of them would cost more than making them."""
_LOW_BITS = 62
_LOW_MASK = (1 << _LOW_BITS) - 1
TRACE = ("trace_id", "span_id", "parent_id")
"""What an emitter may say beside a type's own fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """One event, serialised."""

    event_id: str
    time_ns: int
    """Since 1970."""
    type: str
    body: bytes
    """The document: one line of JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who tells: the same in every event of a process."""

    node: str
    """The process's role and number: ``replica-4711``."""
    host: str = ""
    pid: int = 0
    version: str = ""


class EventIds:
    """Makes ids that grow with time, as UUID version 7 does, and never come twice.

    Args:
        chance: 62 random bits of this process.

    Not thread-safe.
    """

    def __init__(self, chance: int) -> None:
        self._low = chance & _LOW_MASK

    def make(self, time_ns: int) -> str:
        """Return an id for an event of that time."""
        self._low = low = (self._low + 1) & _LOW_MASK
        millis, rest = divmod(time_ns, 1_000_000)
        return (
            f"{millis >> 16 & 0xFFFFFFFF:08x}-{millis & 0xFFFF:04x}-7{rest >> 8:03x}-"
            f"{0x8000 | low >> 48:04x}-{low & 0xFFFFFFFFFFFF:012x}"
        )


class UnknownFieldError(ValueError):
    """A type was given a field that it does not declare, or a value that its field cannot hold: a bug of ours."""


class Recorder:
    """Makes records.

    Args:
        origin: Who tells.
        ids: Makes their ids.
        profile: Which state of the conventions names their fields.

    Not thread-safe.
    """

    def __init__(self, origin: Origin, ids: EventIds, profile: Profile = DEFAULT_PROFILE) -> None:
        self._origin = origin
        self._ids = ids
        self._shapes: dict[str, _Shape] = {}
        self._second = -1
        self._second_text = ""
        self.profile = profile

    def use(self, profile: Profile) -> None:
        """Name fields by that profile from now on."""
        if profile != self.profile:
            self.profile = profile
            self._shapes.clear()

    def record(self, event_type: str, time_ns: int, values: Mapping[str, object]) -> EventRecord:
        """Return the event; values that are None are left out.

        Args and errors as ``make``.
        """
        event_id, body = self.make(event_type, time_ns, values)
        return EventRecord(event_id=event_id, time_ns=time_ns, type=event_type, body=body)

    def make(self, event_type: str, time_ns: int, values: Mapping[str, object]) -> tuple[str, bytes]:
        """Return the event's id and its document; values that are None are left out.

        Args:
            event_type: Its name.
            time_ns: When it happened, since 1970.
            values: By the fields' short names.

        Raises:
            KeyError: there is no such type.
            UnknownFieldError: see there.
        """
        shape = self._shapes.get(event_type)
        if shape is None:
            shape = self._shapes[event_type] = _Shape(TYPE[event_type], self._origin, self.profile)
        event_id = self._ids.make(time_ns)
        return event_id, shape.document(event_id, self._at(time_ns), values)

    def _at(self, time_ns: int) -> str:
        second, rest = divmod(time_ns, NS_PER_S)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second_text}.{rest // 1_000:06d}Z"


def index_date(time_ns: int) -> str:
    """Return the day of an event as it stands in the name of its index: the same event is always in the same one."""
    return datetime.fromtimestamp(time_ns // NS_PER_S, UTC).strftime("%Y.%m.%d")


_CLASSES: Mapping[FieldType, frozenset[type]] = {
    FieldType.DATE: frozenset({str}),
    FieldType.KEYWORD: frozenset({str, tuple, list}),
    FieldType.LONG: frozenset({int}),
    FieldType.DOUBLE: frozenset({float, int}),
    FieldType.BOOLEAN: frozenset({bool}),
    FieldType.TEXT: frozenset({str}),
    FieldType.STORED: frozenset({str}),
}


class _Shape:
    """Where the fields of one type stand.

    Keys of a document are whole paths (``"gen_ai.response.model": …``), as ECS loggers write them: Elasticsearch makes
    the same objects of them, and nothing has to be nested here.
    """

    def __init__(self, event_type: EventType, origin: Origin, profile: Profile) -> None:
        self._name = event_type.name
        frame = orjson.dumps(_frame(event_type, origin))
        assert frame[:1] == b"{", "an object"
        # What is always the same is serialised once; the rest is put before it.
        self._frame = b"," + frame[1:]
        names = (*event_type.fields, *TRACE)
        self._paths = {name: FIELD[name].path_in(profile) for name in names}
        self._classes = {name: _CLASSES[FIELD[name].type] for name in names}
        self._checks = CHECKED

    def document(self, event_id: str, at: str, values: Mapping[str, object]) -> bytes:
        """Return the event as one line of JSON."""
        paths = self._paths
        try:
            told = {paths[name]: value for name, value in values.items() if value is not None}
        except KeyError as error:
            raise UnknownFieldError(f"{self._name} declares no field {error}") from None
        if self._checks:
            self._checks -= 1
            self._check(values)
        head = f'{{"@timestamp":"{at}","event.id":"{event_id}"'.encode()
        if not told:
            return head + self._frame
        return head + b"," + orjson.dumps(told)[1:-1] + self._frame

    def _check(self, values: Mapping[str, object]) -> None:
        for name, value in values.items():
            classes = self._classes[name]
            if value is None or type(value) in classes or (isinstance(value, str) and str in classes):
                continue
            raise UnknownFieldError(f"{self._name}.{name} holds no {type(value).__name__}")


def _frame(event_type: EventType, origin: Origin) -> dict[str, object]:
    """Return what every event of that type from there holds, by path."""
    every: dict[str, object] = {
        "action": event_type.name,
        "kind": event_type.kind,
        "category": event_type.category,
        "type": event_type.type,
        "dataset": event_type.dataset,
        "event_class": event_type.event_class.value,
        "schema": SCHEMA,
        "ecs_version": ECS_VERSION,
        "service": "tutti",
        "service_version": origin.version,
        "node": origin.node,
        "host": origin.host,
        "pid": origin.pid,
    }
    return {FIELD[name].path: value for name, value in every.items() if value}
