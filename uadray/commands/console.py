"""What a command prints: logs as JSON lines off a terminal, and one JSON object at the end.

Whatever else a process prints once it works on a cluster (Ray's messages, tracebacks, warnings of libraries) goes to a
file, see `divert`.
"""

import json
import logging
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from uadray.errors import SHOW_IDS

_log_file: Path | None = None
_out: TextIO | None = None
_err: TextIO | None = None


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


def say(text: str) -> None:
    """Print a text for people, before the answer."""
    print(text, file=out(), flush=True)


def result(values: dict[str, Any]) -> None:
    """Print the command's answer: one JSON object, as the last line of standard output."""
    print(json.dumps(values), file=out(), flush=True)
