"""A command as its user sees it: the lines it prints, and when, standard output and error together, off a terminal."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from types import TracebackType
from typing import Self


class Command:
    """A running command and the lines it has printed so far. A context manager, which kills the command at its end.

    Attributes:
        lines: for each line the seconds since the start, and its text.
    """

    def __init__(self, arguments: Sequence[str], environment: dict[str, str]) -> None:
        self.lines: list[tuple[float, str]] = []
        self._began = time.monotonic()
        self._ended_s: float | None = None
        self._process = subprocess.Popen(
            arguments, env=environment, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, name="uadray-bench-lines", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(5)

    @property
    def pid(self) -> int:
        """The process id of the command."""
        return self._process.pid

    @property
    def seconds(self) -> float:
        """Seconds from the start to now, or to the end of a command that has ended."""
        return time.monotonic() - self._began if self._ended_s is None else self._ended_s

    def wait(self, seconds: float) -> int | None:
        """The exit status; None where the command has not ended after so many seconds."""
        with suppress(subprocess.TimeoutExpired):
            status = self._process.wait(max(0.0, seconds))
            self._ended_s = self.seconds
            self._reader.join(5)  # not for ever: somebody may have inherited the pipe
            return status
        return None

    def _read(self) -> None:
        if (pipe := self._process.stdout) is not None:
            with pipe:
                self.lines.extend((self.seconds, line.rstrip()) for line in pipe)


def longest_silence(line_ends_s: Sequence[float], end_s: float) -> float:
    """The longest time without a line between the start, at 0, and the end.

    >>> longest_silence([2.0, 3.0, 9.0], 10.0)
    6.0
    """
    ends = [0.0, *line_ends_s, end_s]
    return max(after - before for before, after in pairwise(ends))


def is_named(lines: Sequence[tuple[float, str]], *texts: str) -> bool:
    """True where one line has all of these texts."""
    return any(all(text in line for text in texts) for _, line in lines)


def shortened(lines: Sequence[tuple[float, str]], *, n: int = 20, width: int = 240) -> list[str]:
    """The last lines, each with the second at which it came."""
    return [f"{at:.1f} {text[:width]}" for at, text in lines[-n:]]
