"""What a command shows: one progress bar on a terminal, JSON lines where there is none, one JSON object at the end."""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from uadray.errors import SHOW_IDS

LOG_EVERY_S = 10.0


class Tick(Protocol):
    """Moves the bar."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """`done` of `total`, and what else is worth seeing."""
        ...


class JsonFormatter(logging.Formatter):
    """One JSON object a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, message."""
        values = {"time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"), "level": record.levelname.lower()}
        return json.dumps(values | {"message": record.getMessage()})


def set_up_logging() -> None:
    """Warnings and worse to standard error, for people on a terminal, as JSON lines elsewhere.

    Ray tells of killed workers on standard output, even after the answer; not so with this, which it reads on import.
    """
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s") if sys.stderr.isatty() else JsonFormatter())
    logging.getLogger("uadray").handlers = [handler]
    logging.getLogger("uadray").setLevel(logging.INFO)
    logging.getLogger("uadray").propagate = False


def show_ids() -> None:
    """Let logs name slides, those of worker processes that are started from here too."""
    os.environ[SHOW_IDS] = "1"


@contextmanager
def progress(title: str) -> Iterator[Tick]:
    """A progress bar on a terminal; off a terminal a log line at most every ten seconds, and one at the end."""
    if sys.stderr.isatty():
        with _bar(title) as bar:
            yield bar
        return
    log, last = logging.getLogger("uadray.progress"), [-LOG_EVERY_S]

    def tick(done: int, total: int, note: str = "") -> None:
        if done >= total or time.monotonic() - last[0] >= LOG_EVERY_S:
            last[0] = time.monotonic()
            log.info("%s: %d of %d %s", title, done, total, note)

    yield tick


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
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, note="")

        def tick(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield tick


def result(values: dict[str, Any]) -> None:
    """The command's answer: one JSON object, the last line of standard output."""
    sys.stdout.flush()
    print(json.dumps(values), flush=True)
