"""The progress of a command: a bar on a terminal, lines of the log where there is none."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from uadray.commands.console import divert, err

LOG_EVERY_S = 20.0
"""Off a terminal a line of progress is printed at least so often, whether anything has moved or not."""


class Tick(Protocol):
    """Moves the progress bar."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` steps are done, and a note beside the bar."""
        ...


class TileProgress(Protocol):
    """Shows how far a job on slides is."""

    def __call__(self, done: int, total: int, tiles: int, note: str = "") -> None:
        """Show slides done, slides in all, tiles so far, and what is waited for, if anything."""
        ...


def tile_progress(tick: Tick) -> TileProgress:
    """The progress of a job on slides, for a progress bar that counts slides and shows tiles in its note."""

    def show(done: int, total: int, tiles: int, note: str = "") -> None:
        tick(done, total, f"{tiles} tiles{', ' if note else ''}{note}")

    return show


@contextmanager
def progress(title: str, *, lines: bool = True) -> Iterator[Tick]:
    """A progress bar on a terminal; off a terminal a log line every 20 seconds, and one at each end.

    Without `lines` there are none off a terminal: a command that runs for weeks says by itself what has happened.
    A command with progress works on a cluster, so everything else it prints goes to the log file, see `divert`.
    """
    divert()
    if err().isatty():
        with _bar(title) as bar:
            yield bar
        return
    if not lines:
        yield lambda done, total, note="": None
        return
    printed = _Lines(title)
    with printed.regularly():
        yield printed.tick


class _Lines:
    """Progress as log lines. A separate thread prints them, since the thread that works may be blocked for long."""

    def __init__(self, title: str) -> None:
        self._title, self._began = title, time.monotonic()
        self._state: tuple[int, int, str] | None = None
        self._printed, self._at = "", self._began
        self._lock, self._ended = threading.Lock(), threading.Event()

    def tick(self, done: int, total: int, note: str = "") -> None:
        """Remember how far the job is; print it once it is done."""
        self._state = (done, total, note)
        if done >= total:
            self._print()

    @contextmanager
    def regularly(self) -> Iterator[None]:
        """Print a line now, and every `LOG_EVERY_S` seconds until the end."""
        self._print()
        thread = threading.Thread(target=self._run, name="uadray-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _run(self) -> None:
        while not self._ended.wait(1.0):
            if time.monotonic() - self._at >= LOG_EVERY_S:
                self._print(again=True)

    def _print(self, *, again: bool = False) -> None:
        with self._lock:
            text = "{}: starting" if self._state is None else "{}: {} of {} {}"
            text = text.format(self._title, *(self._state or ())).rstrip()
            if text == self._printed and not again:
                return
            seconds = f" ({time.monotonic() - self._began:.0f} s)" if text == self._printed else ""
            logging.getLogger("uadray.progress").info("%s%s", text, seconds)
            self._printed, self._at = text, time.monotonic()


@contextmanager
def _bar(title: str) -> Iterator[Tick]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    screen = Console(file=err())
    note = TextColumn("{task.fields[note]}")
    with Progress(*columns, note, console=screen, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task(title, total=None, note="")

        def tick(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)

        with logged_above(screen):
            yield tick


@contextmanager
def logged_above(screen: Any) -> Iterator[None]:
    """Print lines of the log above what is drawn on a terminal's last lines, which is drawn again below them."""
    log = logging.getLogger("uadray")
    before, log.handlers = log.handlers, [_AboveBar(screen)]
    try:
        yield
    finally:
        log.handlers = before


class _AboveBar(logging.Handler):
    """Prints log lines above what is drawn below."""

    def __init__(self, screen: Any) -> None:
        super().__init__()
        self._screen = screen
        self.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record as one line, without markup."""
        self._screen.print(self.format(record), markup=False, highlight=False, soft_wrap=True)
