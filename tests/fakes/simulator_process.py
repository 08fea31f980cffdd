"""A simulator process and the providers' official clients pointed at it, for tests over real sockets."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import yaml
from google import genai
from google.genai import types

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
KEY = "sk-open"
BASE: dict[str, Any] = {"port": 0, "profile": {"latency": {"mean_s": 0}}, "keys": [{"key": KEY}]}


HTTP = httpx.Client(verify=False, timeout=10)
"""One for all plain requests: loading certificates for each would take most of the tests' time."""


class Sim:
    """One simulator process."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-m", "app.simulator", "--config", str(path)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        found = re.fullmatch(r"ready (http://127\.0\.0\.1:\d+)\n", self.process.stdout.readline())
        assert found, "no ready line"
        self.url = found[1]
        self._clients: dict[tuple[str, str], Any] = {}

    def control(self, **change: Any) -> None:
        HTTP.post(f"{self.url}/__control", json=change).raise_for_status()

    def stats(self) -> dict[str, Any]:
        return dict(HTTP.get(f"{self.url}/__stats").json())

    def total(self) -> dict[str, Any]:
        return dict(self.stats()["total"])

    def settled(self) -> dict[str, Any]:
        """Return the counts once nothing is in flight."""
        until = time.monotonic() + 5
        while (total := self.total())["in_flight"]:
            assert time.monotonic() < until, "a request never ended"
            time.sleep(0.02)
        return total

    def openai(self, key: str = KEY) -> openai.OpenAI:
        make = functools.partial(openai.OpenAI, base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=10)
        client: openai.OpenAI = self._kept("openai", key, make)
        return client

    def anthropic(self, key: str = KEY) -> anthropic.Anthropic:
        make = functools.partial(anthropic.Anthropic, base_url=self.url, api_key=key, max_retries=0, timeout=10)
        client: anthropic.Anthropic = self._kept("anthropic", key, make)
        return client

    def gemini(self, key: str = KEY) -> genai.Client:
        once = types.HttpRetryOptions(attempts=1)
        options = types.HttpOptions(base_url=self.url, api_version="v1beta", timeout=10_000, retry_options=once)
        client: genai.Client = self._kept("gemini", key, lambda: genai.Client(api_key=key, http_options=options))
        return client

    def _kept(self, wire: str, key: str, make: Callable[[], Any]) -> Any:
        """Return one client per key: making one costs 100 ms, and Gemini's closes itself when it is collected."""
        if (wire, key) not in self._clients:
            self._clients[wire, key] = make()
        return self._clients[wire, key]

    def fresh(self) -> Sim:
        """Return the simulator as it was started, with zero counts."""
        self.control(
            faults=[],
            replies=[],
            models={},
            profile=BASE["profile"],
            default_reply="schema",
            bill_on_disconnect="partial",
        )
        HTTP.post(f"{self.url}/__reset").raise_for_status()
        return self

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def started(folder: Path, **changes: Any) -> Sim:
    """Return a simulator with the base configuration and ``changes``."""
    path = folder / "sim.yaml"
    path.write_text(yaml.safe_dump({**BASE, **changes}), encoding="utf-8")
    return Sim(path)


def ask_openai(sim: Sim, key: str = KEY, **fields: Any) -> Any:
    return sim.openai(key).chat.completions.create(**{"model": "m", "messages": HELLO, **fields})


def ask_anthropic(sim: Sim, key: str = KEY, **fields: Any) -> Any:
    return sim.anthropic(key).messages.create(**{"model": "m", "max_tokens": 50, "messages": HELLO, **fields})


def ask_gemini(sim: Sim, key: str = KEY, **config: Any) -> Any:
    return sim.gemini(key).models.generate_content(
        model="m", contents="hello", config=types.GenerateContentConfig(**config)
    )


ASK: dict[str, Callable[..., Any]] = {"openai": ask_openai, "anthropic": ask_anthropic, "gemini": ask_gemini}
