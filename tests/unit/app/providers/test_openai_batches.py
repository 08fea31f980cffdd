"""Batches as OpenAI documents them: what is said of one, which lines have an answer, and which never will."""

from __future__ import annotations

import json

from app.domain.chat import Json
from app.providers.openai_batches import BatchLine, OpenAIBatches, line_of, read_lines, read_list, read_state

BATCH: dict[str, Json] = {
    "id": "batch_abc123",
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "errors": None,
    "input_file_id": "file-abc123",
    "completion_window": "24h",
    "status": "completed",
    "output_file_id": "file-cvaTdG",
    "error_file_id": None,
    "created_at": 1711471533,
    "request_counts": {"total": 2, "completed": 1, "failed": 1},
    "metadata": {"tutti_batch": "1711471500-n"},
}
ANSWERED: dict[str, Json] = {
    "id": "batch_req_1",
    "custom_id": "one",
    "response": {"status_code": 200, "request_id": "r1", "body": {"object": "chat.completion"}},
    "error": None,
}
EXPIRED: dict[str, Json] = {
    "id": "batch_req_2",
    "custom_id": "two",
    "response": None,
    "error": {"code": "batch_expired", "message": "This request could not be executed before the completion window."},
}


def test_a_batch_is_ours_by_its_metadata() -> None:
    """Others' batches are in the same list, and have metadata of their own or none."""
    foreign: Json = {**BATCH, "id": "batch_other", "metadata": None, "status": "in_progress", "output_file_id": None}
    states, more = read_list({"object": "list", "data": [BATCH, foreign, "noise"], "has_more": True})

    assert [(state.batch_id, state.name, state.has_ended, state.files) for state in states] == [
        ("batch_abc123", "1711471500-n", True, ("file-cvaTdG",)),
        ("batch_other", None, False, ()),
    ]
    assert (more, states[0].created_s) == (True, 1_711_471_533.0)
    assert read_state({"error": {"message": "no"}}) is None


def test_a_line_is_answered_refused_or_never_made() -> None:
    """What the provider never came to is like a provider that was too busy: free, and to be bought elsewhere."""
    content = "\n".join([json.dumps(ANSWERED), "", "not json", json.dumps(EXPIRED)]).encode()

    assert read_lines(content) == {
        "one": BatchLine(status=200, body={"object": "chat.completion"}),
        "two": BatchLine(status=503, body={"error": EXPIRED["error"]}),
    }


def test_an_upload_is_one_request_a_line() -> None:
    """A form as browsers send it: purpose and file."""
    call = OpenAIBatches("https://x/v1", {"authorization": "Bearer k", "content-type": "application/json"}).upload(
        [line_of("one", b'{"model":"m"}'), line_of("two", b'{"model":"m"}')]
    )
    boundary = call.headers["content-type"].partition("boundary=")[2].encode()
    parts = [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in call.body.split(b"--" + boundary)]

    assert call.headers["authorization"] == "Bearer k"
    assert b"batch" in parts
    lines = [json.loads(line) for line in parts[2].splitlines()]
    assert [(line["custom_id"], line["method"], line["url"], line["body"]) for line in lines] == [
        ("one", "POST", "/v1/chat/completions", {"model": "m"}),
        ("two", "POST", "/v1/chat/completions", {"model": "m"}),
    ]
