"""OpenAI's files and batches: requests in a file, answered one by one while nobody listens, answers in another file."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import orjson
from pydantic import JsonValue

from app.simulator.background import Detached
from app.simulator.exchange import HttpRequest, Refusal
from app.simulator.json_reading import JsonObject, object_at, text_of

FILES_MAX, BATCHES_MAX = 2_000, 2_000
"""Kept, of all keys; the oldest go first."""

Make = Callable[[bytes, Detached], Awaitable[None]]
"""Answers one request's body on a connection that nobody holds."""


@dataclass(slots=True, kw_only=True)
class Batch:
    """One batch."""

    name: str
    key: str
    """The API key that began it, and alone may ask for it."""
    number: int
    metadata: JsonObject
    file_id: str
    lines: list[JsonObject]
    listed_ns: int
    created_s: int = field(default_factory=lambda: int(time.time()))
    under_way: set[Detached] = field(default_factory=set)
    work: asyncio.Task[None] | None = None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    output_id: str | None = None
    error_id: str | None = None

    def told(self) -> JsonObject:
        """Return the batch object as it is by now."""
        done = self.work is not None and self.work.done()
        return {
            "id": self.name,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "input_file_id": self.file_id,
            "completion_window": "24h",
            "status": ("cancelled" if self.cancelled.is_set() else "completed") if done else "in_progress",
            "output_file_id": self.output_id if done else None,
            "error_file_id": self.error_id if done else None,
            "created_at": self.created_s,
            "metadata": self.metadata,
            "request_counts": {"total": len(self.lines)},
        }


class Batches:
    """Files and batches of all keys. Not thread-safe: the server's event loop is the lock."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._batches: OrderedDict[str, Batch] = OrderedDict()
        self._count = 0

    def keep_file(self, key: str, content: bytes) -> str:
        """Keep a file; return its name."""
        self._count += 1
        name = f"file-{self._count:024x}"
        self._files[name] = (key, content)
        if len(self._files) > FILES_MAX:
            self._files.popitem(last=False)
        return name

    def get_file(self, key: str, name: str) -> bytes:
        """Return a file's bytes; raises Refusal."""
        owner, content = self._files.get(name, ("", b""))
        if owner != key:
            raise Refusal("not_found", f"No such File object: {name}")
        return content

    def begin(self, key: str, body: JsonObject, make: Make, *, delay_s: float, lag_s: float) -> Batch:
        """Begin a batch of a file that was uploaded; raises Refusal."""
        if body.get("endpoint") != "/v1/chat/completions":
            raise Refusal("invalid", "Only batches of chat completions are simulated.", param="endpoint")
        file_id = text_of(body.get("input_file_id")) or ""
        lines = [_line(text) for text in self.get_file(key, file_id).splitlines() if text.strip()]
        names = [text_of(line.get("custom_id")) for line in lines]
        if not lines or None in names or len(set(names)) < len(names):
            raise Refusal("invalid", "Every line needs a custom_id of its own.", param="input_file_id")
        if len({text_of(object_at(line, "body").get("model")) for line in lines}) > 1:
            raise Refusal("invalid", "A batch may ask one model only.", param="input_file_id")
        self._count += 1
        batch = Batch(
            name=f"batch_{self._count:024x}",
            key=key,
            number=self._count,
            metadata=object_at(body, "metadata"),
            file_id=file_id,
            lines=lines,
            listed_ns=time.monotonic_ns() + int(lag_s * 1e9),
        )
        self._batches[batch.name] = batch
        if len(self._batches) > BATCHES_MAX:
            self._batches.popitem(last=False)
        batch.work = asyncio.create_task(self._work(batch, make, delay_s))
        return batch

    def get(self, key: str, name: str) -> Batch:
        """Return a batch; raises Refusal."""
        found = self._batches.get(name)
        if found is None or found.key != key:
            raise Refusal("not_found", f"No such Batch object: {name}")
        return found

    def listed(self, key: str, *, after: str | None, limit: int) -> tuple[list[Batch], bool]:
        """Return batches that are listed by now, the newest first, from behind ``after``; and whether more follow."""
        now_ns = time.monotonic_ns()
        found = [one for one in reversed(self._batches.values()) if one.key == key and one.listed_ns <= now_ns]
        if after is not None:
            found = [one for one in found if one.number < self.get(key, after).number]
        return found[:limit], len(found) > limit

    async def stop(self, batch: Batch) -> None:
        """Stop what is not answered yet."""
        if batch.work is not None and not batch.work.done():
            batch.cancelled.set()
            for answering in batch.under_way:
                answering.stopped.set()
            await asyncio.wait({batch.work})

    async def _work(self, batch: Batch, make: Make, delay_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(batch.cancelled.wait(), delay_s)
        good: list[bytes] = []
        bad: list[bytes] = []
        for line in batch.lines:
            if batch.cancelled.is_set():
                break
            answering = Detached()
            batch.under_way.add(answering)
            await make(orjson.dumps(line.get("body")), answering)
            batch.under_way.discard(answering)
            if not answering.stopped.is_set():
                (good if answering.status == 200 else bad).append(_answered(line, answering))
        batch.output_id = self.keep_file(batch.key, b"\n".join(good)) if good else None
        batch.error_id = self.keep_file(batch.key, b"\n".join(bad)) if bad else None


def uploaded(http: HttpRequest) -> bytes:
    """Return the file in a multipart body whose purpose is ``batch``; raises Refusal."""
    _, _, boundary = http.headers.get("content-type", "").partition("boundary=")
    parts: dict[bytes, bytes] = {}
    for part in http.raw.split(b"--" + boundary.strip('"').encode()) if boundary else ():
        head, _, content = part.partition(b"\r\n\r\n")
        for name in (b"purpose", b"file"):
            if b'name="%b"' % name in head:
                parts[name] = content.removesuffix(b"\r\n")
    if parts.get(b"purpose") != b"batch" or b"file" not in parts:
        raise Refusal("invalid", "Files are only taken for batches.", param="purpose")
    return parts[b"file"]


def _line(text: bytes) -> JsonObject:
    try:
        found: JsonValue = orjson.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Refusal("invalid", "A line of the file is no JSON object.", param="input_file_id")
    return found


def _answered(line: JsonObject, answering: Detached) -> bytes:
    try:
        body: JsonValue = orjson.loads(answering.body)
    except ValueError:  # a fault made it so
        body = None
    response: JsonObject = {"status_code": answering.status, "body": body}
    return orjson.dumps({"custom_id": line.get("custom_id"), "response": response, "error": None})
