"""The job: conducts every request of a JSON-lines file and writes one result document a line.

Run as ``ray job submit -- python -m app.batch --in requests.jsonl --out results.jsonl``, or without a cluster, on a
private one. Resumable: what the output file already answers is skipped, and a run that was under way is joined again
by its idempotency key instead of being bought twice.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from actors import bootstrap, cluster
from app import settings
from app.domain.chat import Json
from app.domain.errors import ConfigurationError, GatewayError, RequestError
from app.domain.ports import Desk
from app.domain.run import ResultDocument, RunRequest, RunStatus

WAIT_S = 20.0
LINE_BYTES_MAX = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLine:
    """One request of the input; ``key`` identifies it over restarts."""

    number: int
    key: str
    request: RunRequest | None
    problem: str | None = None


def read_lines(path: Path) -> Iterator[BatchLine]:
    """Yield the requests of a JSON-lines file; a wrong line is yielded with its problem, and the rest still runs."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            key = f"batch:{hashlib.sha256(raw.strip()).hexdigest()[:32]}:{number}"
            try:
                yield BatchLine(number=number, key=key, request=_parse(raw, key))
            except RequestError as error:
                yield BatchLine(number=number, key=key, request=None, problem=f"line {number}: {error.message}")


def answered_keys(path: Path) -> set[str]:
    """Return the keys that the output answers already; a torn last line is cut off so that appending stays clean."""
    if not path.exists():
        return set()
    keys: set[str] = set()
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    for line in whole.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            keys.add(str(orjson.loads(line)["batch_key"]))
    return keys


async def conduct(desk: Desk, lines: Sequence[BatchLine], out: Path, *, concurrency: int) -> int:
    """Conduct the lines, a few at a time, appending each document as it comes; return how many were not answered."""
    gate = asyncio.Semaphore(concurrency)
    failures = 0
    done = 0

    async def one(line: BatchLine) -> None:
        nonlocal failures, done
        async with gate:
            document = await _document(desk, line)
        with out.open("ab") as file:
            file.write(orjson.dumps({"batch_key": line.key, "line": line.number, **document}) + b"\n")
        done += 1
        failures += document["status"] not in (RunStatus.COMPLETED.value, RunStatus.PARTIAL.value)
        print(f"{done}/{len(lines)} line {line.number}: {document['status']}", file=sys.stderr, flush=True)  # noqa: T201

    await asyncio.gather(*(one(line) for line in lines))
    return failures


def _parse(raw: bytes, key: str) -> RunRequest:
    if len(raw) > LINE_BYTES_MAX:
        raise RequestError(f"the line has {len(raw)} bytes, the limit is {LINE_BYTES_MAX}", param="request_text")
    try:
        value = json.loads(raw.decode("utf-8"))
    except ValueError as error:
        raise RequestError(f"not JSON in UTF-8 ({type(error).__name__})", remedy="one JSON object a line") from None
    if (
        not isinstance(value, dict)
        or not isinstance(value.get("request_text"), str)
        or not value["request_text"].strip()
    ):
        raise RequestError("no text in 'request_text'", param="request_text", remedy='write {"request_text": "..."}')
    unknown = sorted(set(value) - {"request_text", "id", "timeout_s", "max_tokens_total"})
    if unknown:
        raise RequestError(f"unknown field {unknown[0]!r}", param=unknown[0])
    return RunRequest(
        text=value["request_text"],
        assume_defaults=True,
        timeout_s=value.get("timeout_s"),
        tokens_max=value.get("max_tokens_total"),
        idempotency_key=key,
    )


async def _document(desk: Desk, line: BatchLine) -> dict[str, Json]:
    if line.request is None:
        return ResultDocument(run_id="", status=RunStatus.FAILED, error=line.problem).to_json()
    try:
        record = await desk.start(line.request)
        seq = 0
        while record.document is None or not record.status.ended:
            for event in await desk.events(record.run_id, seq, wait_s=WAIT_S):
                seq = event.seq
            record = await desk.get(record.run_id)
        return record.document
    except GatewayError as error:
        return ResultDocument(run_id="", status=RunStatus.FAILED, error=error.message).to_json()


@contextlib.asynccontextmanager
async def _desk(config: Path | None) -> AsyncIterator[Desk]:
    orchestra = settings.load(config)
    joined = await asyncio.to_thread(cluster.join, namespace=bootstrap.NAMESPACE)
    if not joined:
        await asyncio.to_thread(cluster.start_local, namespace=bootstrap.NAMESPACE)
    try:
        yield await bootstrap.ensure(orchestra)
    finally:
        if not joined:
            with contextlib.suppress(GatewayError):
                await bootstrap.end()
        await asyncio.to_thread(cluster.stop)


async def run(arguments: argparse.Namespace) -> int:
    """Do what the command line says and return the exit status: 0 all answered, 4 some not."""
    source, out = Path(arguments.source), Path(arguments.out)
    answered = answered_keys(out)
    lines = [line for line in read_lines(source) if line.key not in answered]
    print(f"{len(answered)} answered before, {len(lines)} to do", file=sys.stderr, flush=True)  # noqa: T201
    if not lines:
        return 0
    async with _desk(Path(arguments.config) if arguments.config else None) as desk:
        return 4 if await conduct(desk, lines, out, concurrency=arguments.concurrency) else 0


def main() -> int:
    """Entry point; bad input or configuration exits 2 with one line."""
    parser = argparse.ArgumentParser(prog="python -m app.batch", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--in", dest="source", required=True, help='JSON lines: {"request_text": "..."}')
    parser.add_argument("--out", required=True, help="result documents, one a line; appended, so a restart goes on")
    parser.add_argument("--config", help="configuration file; default: TUTTI_CONFIG, then the usual places")
    parser.add_argument("--concurrency", type=int, default=8, help="runs at once (default 8)")
    try:
        return asyncio.run(run(parser.parse_args()))
    except (ConfigurationError, RequestError) as error:
        print(f"error: {error.message}", file=sys.stderr)  # noqa: T201
        return 2
    except OSError as error:
        print(f"error: {error.strerror}: {error.filename}", file=sys.stderr)  # noqa: T201
        return 2
    except GatewayError as error:
        print(f"error: {error.message}", file=sys.stderr)  # noqa: T201
        return 4


if __name__ == "__main__":
    sys.exit(main())
