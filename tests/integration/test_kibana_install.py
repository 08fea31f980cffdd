"""`tutti kibana install` over HTTP: what a Kibana demands of a request is in it, and the upload arrives whole."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson
import pytest

from app import cli
from app.domain.kibana import export
from app.domain.kibana.alerts import RULES
from app.domain.kibana.saved_objects import Setting
from tests.fakes.kibana_server import FakeKibana


class KibanaAtPort:
    """A fake Kibana behind a port, which refuses what a real one refuses before it looks at it."""

    def __init__(self) -> None:
        self.fake = FakeKibana()
        self.signed_in: set[str] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if self.headers.get("transfer-encoding") == "chunked":
                    body = self._chunks()
                outer.signed_in.add(self.headers.get("authorization", ""))
                if self.command != "GET" and not self.headers.get("kbn-xsrf"):
                    return self._say(400, {"message": "Request must contain a kbn-xsrf header."})
                kind = self.headers.get("content-type", "")
                answer = asyncio.run(outer.fake.ask(self.command, self.path, body, kind=kind))
                self._say(answer.status, dict(answer.document))

            do_GET = do_POST = do_PUT = _any

            def _chunks(self) -> bytes:
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            def _say(self, status: int, document: dict[str, object]) -> None:
                body = orjson.dumps(document)
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def kibana() -> Iterator[KibanaAtPort]:
    """A Kibana of this test alone."""
    running = KibanaAtPort()
    thread = threading.Thread(target=running.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield running
    running.server.shutdown()
    running.server.server_close()
    thread.join()


def test_the_command_brings_everything_in_and_nothing_twice(
    kibana: KibanaAtPort, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user types it, with another prefix; the password comes by the environment."""
    monkeypatch.setenv("ELASTIC_PASSWORD", "secret")
    command = ["kibana", "install", "--url", kibana.url, "--user", "elastic", "--prefix", "mine", "--json"]
    statuses = [cli.main([*command, "--dry-run"]), cli.main(command), cli.main(command)]
    capfd.readouterr()
    cli.main(command[:-1])
    said = capfd.readouterr()

    assert statuses == [0, 0, 0]
    assert set(kibana.fake.objects) == {str(one["id"]) for one in export.objects(Setting(prefix="mine"))}
    assert len(kibana.fake.rules) == len(RULES)
    assert kibana.signed_in == {"Basic ZWxhc3RpYzpzZWNyZXQ="}
    assert said.out.count("alert rule") == said.out.count("unchanged") - 1 == len(RULES)
    assert "secret" not in said.out + said.err


def test_a_kibana_that_is_not_there_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    """No traceback, and what to check."""
    status = cli.main(["kibana", "install", "--url", "http://127.0.0.1:9"])
    assert status == 4
    assert "Kibana at http://127.0.0.1:9 cannot be reached" in capfd.readouterr().err
