"""What a command shows: one progress bar on a terminal, JSON lines where there is none, one JSON object at the end.

Whatever else a process prints once it works on a cluster (Ray's messages, tracebacks, warnings of libraries) goes to a
file, see `divert`.
"""

import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TextIO

from uadray.errors import SHOW_IDS

LOG_EVERY_S = 20.0
"""Off a terminal a line of progress is printed at least so often, whether anything has moved or not."""

_log_file: Path | None = None
_out: TextIO | None = None
_err: TextIO | None = None


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


class JsonFormatter(logging.Formatter):
    """Makes one JSON object of each log record."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON with `time`, `level` and `message`."""
        values = {"time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"), "level": record.levelname.lower()}
        return json.dumps(values | {"message": record.getMessage()})


def set_up_logging() -> None:
    """Send the log to standard error: as text on a terminal, as JSON lines elsewhere."""
    handler = logging.StreamHandler(err())
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s") if err().isatty() else JsonFormatter())
    logging.getLogger("uadray").handlers = [handler]
    logging.getLogger("uadray").setLevel(logging.INFO)
    logging.getLogger("uadray").propagate = False


def show_ids() -> None:
    """Let logs name slides, in this process and in worker processes that it starts."""
    os.environ[SHOW_IDS] = "1"


def out() -> TextIO:
    """The stream for a command's answer: standard output, as it was before `divert`."""
    return _out or sys.stdout


def err() -> TextIO:
    """The stream for messages to people: standard error, as it was before `divert`."""
    return _err or sys.stderr


def divert() -> None:
    """Send everything that is printed from now on to a log file, but for what this module prints.

    Ray prints hundreds of lines about itself when something breaks, from Python and from C++, and not all of it can be
    silenced; it is for whoever looks into it. The file is removed at the end of a command that went well.
    """
    global _log_file, _out, _err
    if _log_file is not None:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    _out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8", errors="replace")
    _err = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="replace")
    _log_file = _new_log_file()
    with _log_file.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    set_up_logging()


def is_diverted() -> bool:
    """True once work on a cluster has begun and output goes to the log file, see `divert`."""
    return _log_file is not None


def log_file() -> Path | None:
    """The log file; None where there is none or nothing is in it."""
    if _log_file is None or not _log_file.exists():
        return None
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return _log_file if _log_file.stat().st_size else None


def forget_log() -> None:
    """Remove the log file, after a command that went well."""
    if _log_file is not None:
        with suppress(OSError):
            _log_file.unlink()


def _new_log_file() -> Path:
    home = Path(os.environ.get("UADRAY_CACHE") or Path.home() / ".cache" / "uadray")
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    for folder in (home / "logs", Path(tempfile.gettempdir())):
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).touch(mode=0o600)
            return folder / name
    return Path(os.devnull)


@contextmanager
def progress(title: str) -> Iterator[Tick]:
    """A progress bar on a terminal; off a terminal a log line every 20 seconds, and one at each end.

    A command with progress works on a cluster, so everything else it prints goes to the log file, see `divert`.
    """
    divert()
    if err().isatty():
        with _bar(title) as bar:
            yield bar
        return
    lines = _Lines(title)
    with lines.regularly():
        yield lines.tick


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

        with _logged_to(_AboveBar(screen)):
            yield tick


class _AboveBar(logging.Handler):
    """Prints log lines above a progress bar, which is drawn again below them."""

    def __init__(self, screen: Any) -> None:
        super().__init__()
        self._screen = screen
        self.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record as one line, without markup."""
        self._screen.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _logged_to(handler: logging.Handler) -> Iterator[None]:
    log = logging.getLogger("uadray")
    before, log.handlers = log.handlers, [handler]
    try:
        yield
    finally:
        log.handlers = before


def say(text: str) -> None:
    """Print a text for people, before the answer."""
    print(text, file=out(), flush=True)


def result(values: dict[str, Any]) -> None:
    """Print the command's answer: one JSON object, as the last line of standard output."""
    print(json.dumps(values), file=out(), flush=True)
