"""OpenAI's batches, told in the words of chat completions: a file of requests, a batch of it, a file of answers.

Pure. A batch is found again among all by a name of ours that stands in its metadata; a line in it by its ``custom_id``.

Source: developers.openai.com/api/docs/guides/batch and /api/reference/resources/batches, read 2026-11-21.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from app.domain.chat import Json
from app.providers.http_client import WireCall
from app.providers.payload import as_list, as_object, dump_json, find_count, find_text, parse_json

NAME = "tutti_batch"
"""Among a batch's metadata: our name of it."""
LISTED_MAX = 100
ENDED = frozenset(("completed", "failed", "expired", "cancelled"))
_BOUNDARY = "tutti-boundary-5f1c2b7d9e"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchState:
    """What the provider says of a batch."""

    batch_id: str
    name: str | None
    """Ours; None where somebody else made it."""
    created_s: float
    status: str
    files: tuple[str, ...]
    """Of answers and of errors, as far as there are any."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is to come."""
        return self.status in ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLine:
    """What became of one request of a batch."""

    status: int
    """HTTP's, as the request would have had it alone."""
    body: Json = field(repr=False)


class OpenAIBatches:
    """Makes the requests about one account's batches and reads the answers.

    Args:
        url: The account's base address.
        headers: Of all its requests.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url = url
        self._headers = dict(headers)

    def upload(self, lines: Sequence[bytes]) -> WireCall:
        """Return the request that uploads a batch's requests."""
        parts = (
            f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n',
            f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="batch.jsonl"\r\n'
            "content-type: application/jsonl\r\n\r\n",
        )
        body = "".join(parts).encode() + b"\n".join(lines) + f"\r\n--{_BOUNDARY}--\r\n".encode()
        headers = {**self._headers, "content-type": f"multipart/form-data; boundary={_BOUNDARY}"}
        return WireCall(url=f"{self._url}/files", headers=headers, body=body)

    def create(self, file_id: str, name: str) -> WireCall:
        """Return the request that begins a batch."""
        body: Json = {
            "input_file_id": file_id,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {NAME: name},
        }
        return WireCall(url=f"{self._url}/batches", headers=self._headers, body=dump_json(body).encode())

    def list_from(self, after: str | None) -> WireCall:
        """Return the request that lists batches, the newest first, from behind ``after`` on."""
        query = urlencode({"limit": LISTED_MAX} | ({"after": after} if after else {}))
        return WireCall(method="GET", url=f"{self._url}/batches?{query}", headers=self._headers)

    def look(self, batch_id: str) -> WireCall:
        """Return the request that says how far a batch is."""
        return WireCall(method="GET", url=f"{self._url}/batches/{quote(batch_id, safe='')}", headers=self._headers)

    def stop(self, batch_id: str) -> WireCall:
        """Return the request that stops a batch; what was answered by then is kept, and billed."""
        return WireCall(url=f"{self._url}/batches/{quote(batch_id, safe='')}/cancel", headers=self._headers)

    def content(self, file_id: str) -> WireCall:
        """Return the request for a file's bytes."""
        return WireCall(method="GET", url=f"{self._url}/files/{quote(file_id, safe='')}/content", headers=self._headers)


def line_of(custom_id: str, body: bytes) -> bytes:
    """Return one request of a batch; ``body`` is that of a chat completion."""
    line: Json = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": parse_json(body)}
    return dump_json(line).encode()


def read_state(body: Json) -> BatchState | None:
    """Return what a batch object says; None where it is none."""
    fields = as_object(body)
    batch_id = find_text(fields.get("id"))
    if batch_id is None:
        return None
    files = (find_text(fields.get(which)) for which in ("output_file_id", "error_file_id"))
    return BatchState(
        batch_id=batch_id,
        name=find_text(as_object(fields.get("metadata")).get(NAME)),
        created_s=float(find_count(fields.get("created_at")) or 0),
        status=find_text(fields.get("status")) or "",
        files=tuple(found for found in files if found),
    )


def read_list(body: Json) -> tuple[tuple[BatchState, ...], bool]:
    """Return the listed batches, and whether there are more behind them."""
    fields = as_object(body)
    states = tuple(state for row in as_list(fields.get("data")) if (state := read_state(row)) is not None)
    return states, bool(fields.get("has_more")) and bool(states)


def read_lines(content: bytes) -> dict[str, BatchLine]:
    """Return what became of each request, by ``custom_id``; a line that cannot be read is left out."""
    found: dict[str, BatchLine] = {}
    for text in content.splitlines():
        try:
            fields = as_object(parse_json(text)) if text.strip() else {}
        except ValueError:
            continue
        custom_id, response = find_text(fields.get("custom_id")), as_object(fields.get("response"))
        if custom_id is not None:
            error: Json = {"error": fields.get("error")}
            status = find_count(response.get("status_code"))
            found[custom_id] = (
                BatchLine(status=503, body=error)
                if status is None
                else BatchLine(status=status, body=response.get("body"))
            )
    return found
