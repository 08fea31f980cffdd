"""Shows a run on standard error while it goes: a live tree on a terminal, plain lines with a heartbeat elsewhere.

Both are fed by ``play`` and by the notes of a starting cluster, and both keep talking from a thread of their own:
the event loop may be busy importing Ray, and no wait may be silent for more than two seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TypeAlias

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from app.domain.run import RunEvent
from app.terminal.board import RunBoard
from app.terminal.lines import line_of
from app.terminal.tree import render_tree
from app.terminal.words import one_line, seconds

SILENCE_S = 1.7
"""A heartbeat after this, so that with its own delay no wait is silent for two seconds."""


class Heartbeat:
    """Calls ``say`` from a thread whenever nothing was said for ``silence_s`` seconds."""

    def __init__(self, say: Callable[[], None], *, silence_s: float, clock: Callable[[], float]) -> None:
        self._say = say
        self._silence_s = silence_s
        self._clock = clock
        self._spoken_at_s = clock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.muted = False

    def spoken(self) -> None:
        """Note that something was said just now."""
        self._spoken_at_s = self._clock()

    def beat(self) -> None:
        """Say something if it has been silent for too long."""
        if not self.muted and self._clock() - self._spoken_at_s >= self._silence_s:
            self._say()
            self.spoken()

    def start(self) -> None:
        """Begin to watch the silence."""
        self._thread = threading.Thread(target=self._run, name="tutti-heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; idempotent."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            self.beat()


class PlainDisplay:
    """One line an event, with the time since the start in front."""

    def __init__(
        self,
        console: Console,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.board = RunBoard()
        self._console = console
        self._clock = clock
        self._wall = wall
        self._began_s = clock()
        self._doing = "starting"
        self._lock = threading.Lock()
        self.heartbeat = Heartbeat(self._still, silence_s=SILENCE_S, clock=clock)

    def note(self, text: str) -> None:
        """Print ``text`` as a line."""
        self._doing = text
        self._print(text)

    def show(self, events: Sequence[RunEvent]) -> None:
        """Print a line for each event that says something."""
        for event in events:
            with self._lock:
                self.board.apply(event)
            line = line_of(event)
            if line is not None:
                self._print(line)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the heartbeat while a person is being asked."""
        self.heartbeat.muted = True
        try:
            yield
        finally:
            self.heartbeat.spoken()
            self.heartbeat.muted = False

    def __enter__(self) -> PlainDisplay:
        self.heartbeat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.heartbeat.stop()

    def _still(self) -> None:
        with self._lock:
            said = self.board.summary(self._wall()) if self.board.run_id else f"still {one_line(self._doing, 100)}"
        self._print(f"… {said}")

    def _print(self, text: str) -> None:
        self.heartbeat.spoken()
        took = seconds(self._clock() - self._began_s)
        self._console.print(Text(f"[{took:>8}] {one_line(text, 400)}"), soft_wrap=True)


class LiveDisplay:
    """A tree that rich redraws in place, from its own thread."""

    def __init__(self, console: Console, *, wall: Callable[[], float] = time.time) -> None:
        self.board = RunBoard()
        self._wall = wall
        self._notes: list[str] = []
        self._began_s = wall()
        self._lock = threading.Lock()
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=8)

    def note(self, text: str) -> None:
        """Show ``text`` above the tree; the last three notes stay."""
        with self._lock:
            self._notes = [*self._notes[-2:], text]

    def show(self, events: Sequence[RunEvent]) -> None:
        """Take the run's next events into the tree."""
        with self._lock:
            for event in events:
                self.board.apply(event)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Freeze the tree while a person is being asked."""
        self._live.stop()
        try:
            yield
        finally:
            self._live.start()

    def render(self) -> RenderableType:
        """Return the present picture."""
        with self._lock:
            now_s = self._wall()
            notes = [Text(one_line(text, 200), style="dim") for text in (*self._notes, *self.board.notes[-4:])]
            if not self.board.run_id:
                return Group(*notes, Text(f"starting … {seconds(now_s - self._began_s)}", style="cyan"))
            return Group(*notes, render_tree(self.board, now_s))

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


Display: TypeAlias = PlainDisplay | LiveDisplay


def display_on(console: Console) -> Display:
    """Return what suits the console."""
    return LiveDisplay(console) if console.is_terminal and not console.is_dumb_terminal else PlainDisplay(console)
