"""The job: conducts every request of a JSON-lines file and writes one result document a line.

Run as ``ray job submit -- python -m app.batch --in requests.jsonl --out results.jsonl``, or without a cluster, on a
private one. Resumable: what the output file answers is skipped, what failed is done again, and a run that was under way
is joined again by its idempotency key instead of being bought twice.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import orjson
from pydantic import AfterValidator, Field, ValidationError

from actors import bootstrap, cluster
from app import settings
from app.domain.accounts import Orchestra
from app.domain.chat import Json
from app.domain.errors import ConfigurationError, GatewayError, RequestError
from app.domain.ports import Desk
from app.domain.run import ResultDocument, RunRequest, RunStatus
from app.http.follow import document_of
from app.http.schemas import ProjectRequest

WAIT_S = 20.0
LINE_BYTES_MAX = 256 * 1024
ANSWERED = frozenset((RunStatus.COMPLETED, RunStatus.PARTIAL))
Statuses = dict[str, RunStatus]
"""How each line ended, by its key."""
EPILOG = """\
A line: {"request_text": "...", "id": "mine", "timeout_s": 600, "max_tokens_total": 50000, "budget_usd": "1.50"}
All but the text may be missing, and the id is repeated in the result. Started again with the same files, the job does
what has no document yet and what failed; completed, partial, cancelled and needs_answers lines stay as they are.
Exit status: 0 every line has an answer, 2 bad input or configuration, 4 a line has no answer, 130 interrupted."""


def _written(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is not a character") from None
    return value


class LineRequest(ProjectRequest):
    """What a line may hold: what HTTP takes, and a name for the caller's own use. Nobody is there to be asked."""

    id: Annotated[str, AfterValidator(_written)] | int | None = None
    assume_defaults: bool = Field(default=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLine:
    """One request of the input; ``key`` identifies it over restarts."""

    number: int
    key: str
    request: RunRequest | None
    problem: str | None = None
    label: str | int | None = None
    """The caller's ``id``."""
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What the output says of a line, as far as the next start needs it."""

    status: RunStatus
    attempt: int
    ran: bool
    """Whether a run came to this end; otherwise one may still be under way, and is to be joined."""


def read_lines(path: Path) -> Iterator[BatchLine]:
    """Yield the requests of a JSON-lines file; a wrong line is yielded with its problem, and the rest still runs."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            key = f"batch:{hashlib.sha256(raw.strip()).hexdigest()[:32]}:{number}"
            try:
                line = _parse(raw)
            except RequestError as error:
                yield BatchLine(number=number, key=key, request=None, problem=f"line {number}: {error.message}")
                continue
            request = RunRequest(
                text=line.request_text,
                assume_defaults=line.assume_defaults,
                timeout_s=line.timeout_s,
                tokens_max=line.max_tokens_total,
                budget_usd=None if line.budget_usd is None else format(line.budget_usd.normalize(), "f"),
                plan_only=line.plan_only,
                idempotency_key=key,
            )
            yield BatchLine(number=number, key=key, request=request, label=line.id)


def recorded(path: Path) -> dict[str, Recorded]:
    """Return what the output says by key; a torn last line is cut off so that appending stays clean."""
    if not path.exists():
        return {}
    found: dict[str, Recorded] = {}
    whole_bytes = 0
    with path.open("rb") as file:
        for raw in file:
            if not raw.endswith(b"\n"):
                break
            whole_bytes += len(raw)
            # What is not ours stays in the file and says nothing.
            with contextlib.suppress(ValueError, KeyError, TypeError):
                document = orjson.loads(raw)
                found[str(document["batch_key"])] = Recorded(
                    status=RunStatus(document["status"]),
                    attempt=int(document.get("attempt", 1)),
                    ran=bool(document.get("run_id")),
                )
    if whole_bytes < path.stat().st_size:
        os.truncate(path, whole_bytes)
    return found


def to_do(lines: Sequence[BatchLine], before: Mapping[str, Recorded]) -> list[BatchLine]:
    """Return the lines without a document and those that failed, the latter under a new key: the old run has ended."""
    chosen = []
    for line in lines:
        last = before.get(line.key)
        if last is None:
            chosen.append(line)
        elif last.status is RunStatus.FAILED:
            chosen.append(_again(line, last.attempt + 1 if last.ran else last.attempt))
    return chosen


def keep_last(path: Path) -> None:
    """Rewrite the output so that a line that was done again has one document, its last."""
    with path.open("rb") as file:
        lines = [raw for raw in file]
    keys = [_key_of(raw) for raw in lines]
    left = Counter(key for key in keys if key is not None)
    kept = []
    for key, raw in zip(keys, lines, strict=True):
        if key is not None:
            left[key] -= 1
        if key is None or left[key] == 0:
            kept.append(raw)
    if len(kept) < len(lines):
        beside = path.with_name(f"{path.name}.new")
        beside.write_bytes(b"".join(kept))
        beside.replace(path)


async def conduct(desk: Desk, lines: Sequence[BatchLine], out: Path, *, concurrency: int) -> Statuses:
    """Conduct the lines, a few at a time, appending each document as it comes; return how each ended, by key."""
    gate = asyncio.Semaphore(concurrency)
    ended: Statuses = {}

    async def one(line: BatchLine) -> None:
        async with gate:
            document = await _document(desk, line)
        about: dict[str, Json] = {"batch_key": line.key, "line": line.number, "attempt": line.attempt}
        if line.label is not None:
            about["id"] = line.label
        with out.open("ab") as file:
            file.write(orjson.dumps({**about, **document}) + b"\n")
        ended[line.key] = RunStatus(str(document["status"]))
        _say(f"{len(ended)}/{len(lines)} line {line.number}: {document['status']}")

    await asyncio.gather(*(one(line) for line in lines))
    return ended


def _parse(raw: bytes) -> LineRequest:
    if len(raw) > LINE_BYTES_MAX:
        raise RequestError(f"the line has {len(raw)} bytes, the limit is {LINE_BYTES_MAX}", param="request_text")
    try:
        value = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RequestError(f"not JSON in UTF-8 ({type(error).__name__})", remedy="one JSON object a line") from None
    if not isinstance(value, dict):
        raise RequestError("not a JSON object with a 'request_text'", remedy='write {"request_text": "..."}')
    try:
        return LineRequest.model_validate(value, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "a field's name"
        if first["type"] == "extra_forbidden":
            raise RequestError(f"unknown field {name!r}", param=name) from None
        if first["type"] == "missing":
            raise RequestError(f"no {name!r}", param=name, remedy='write {"request_text": "..."}') from None
        raise RequestError(f"{name!r}: {first['msg']}", param=name) from None


def _again(line: BatchLine, attempt: int) -> BatchLine:
    key = line.key if attempt == 1 else f"{line.key}:{attempt}"
    request = None if line.request is None else replace(line.request, idempotency_key=key)
    return replace(line, attempt=attempt, request=request)


def _key_of(raw: bytes) -> str | None:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(orjson.loads(raw)["batch_key"])
    return None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


async def _document(desk: Desk, line: BatchLine) -> dict[str, Json]:
    if line.request is None:
        return ResultDocument(run_id="", status=RunStatus.FAILED, error=line.problem).to_json()
    try:
        record = await desk.start(line.request)
        seq = 0
        while not (record.status.ended or record.status is RunStatus.NEEDS_ANSWERS):
            for event in await desk.events(record.run_id, seq, wait_s=WAIT_S):
                seq = event.seq
            record = await desk.get(record.run_id)
        return document_of(record)
    except GatewayError as error:
        return ResultDocument(run_id="", status=RunStatus.FAILED, error=error.message).to_json()


@contextlib.asynccontextmanager
async def _desk(orchestra: Orchestra) -> AsyncIterator[Desk]:
    joined = await asyncio.to_thread(cluster.join, namespace=bootstrap.NAMESPACE)
    _say("joined the Ray cluster" if joined else "starting a private Ray cluster")
    if not joined:
        await asyncio.to_thread(cluster.start_local, namespace=bootstrap.NAMESPACE)
    try:
        yield await bootstrap.ensure(orchestra, on_progress=_say)
    finally:
        if not joined:
            with contextlib.suppress(GatewayError):
                await bootstrap.end()
        await asyncio.to_thread(cluster.stop)


async def _conduct(orchestra: Orchestra, lines: Sequence[BatchLine], out: Path, concurrency: int) -> Statuses:
    async with _desk(orchestra) as desk:
        return await conduct(desk, lines, out, concurrency=concurrency)


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line says and return the exit status: 0 every line has an answer, 4 a line has none."""
    source, out = Path(arguments.source), Path(arguments.out)
    lines = list(read_lines(source))
    orchestra = settings.load(Path(arguments.config) if arguments.config else None)
    if out.exists() and out.samefile(source):
        raise RequestError("--in and --out are the same file", param="--out", remedy="name another file for results")
    # Opened before anything is bought: a result that cannot be written is money lost.
    try:
        out.open("ab").close()
    except OSError as error:
        raise RequestError(
            f"--out {str(out)!r} cannot be written: {error.strerror}",
            param="--out",
            remedy="name a file in a folder of yours",
        ) from None
    before = recorded(out)
    wanted = to_do(lines, before)
    _say(f"{len(lines) - len(wanted)} done before, {len(wanted)} to do")
    statuses: Statuses = {key: record.status for key, record in before.items()}
    if wanted:
        statuses |= asyncio.run(_conduct(orchestra, wanted, out, arguments.concurrency))
        keep_last(out)
    return 0 if all(statuses[line.key] in ANSWERED for line in lines) else 4


def main() -> int:
    """Entry point; bad input or configuration exits 2 with one line."""
    parser = argparse.ArgumentParser(
        prog="python -m app.batch",
        description=(__doc__ or "").partition("\n")[0],
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--in", dest="source", required=True, help='JSON lines: {"request_text": "..."}')
    parser.add_argument("--out", required=True, help="result documents, one a line; appended, so a restart goes on")
    parser.add_argument("--config", help="configuration file; default: TUTTI_CONFIG, then the usual places")
    parser.add_argument("--concurrency", type=_count, default=8, help="runs at once, 1 or more (default 8)")
    try:
        return run(parser.parse_args())
    except (ConfigurationError, RequestError) as error:
        _say(f"error: {error.message}" + (f" Remedy: {error.remedy}" if error.remedy else ""))
        return 2
    except OSError as error:
        _say(f"error: {error.strerror}: {error.filename}")
        return 2
    except GatewayError as error:
        _say(f"error: {error.message}")
        return 4
    except KeyboardInterrupt:
        _say("interrupted; started again, the job goes on where it stopped")
        return 130


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
