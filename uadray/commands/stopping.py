"""Ending a command that runs until it is stopped: the first signal asks it to, the second ends it at once."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from uadray.commands.console import err

log = logging.getLogger("uadray.stopping")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_T = TypeVar("_T")


class Stopping(threading.Event):
    """Set by SIGINT or SIGTERM; a second one ends the process. Use it in the main thread, within `stopping`.

    Attributes:
        says: that what is being committed is finished first.
    """

    says = True

    def listen(self) -> None:
        """Take the signals, also from a library that has taken them meanwhile: Ray takes SIGTERM when it starts."""
        for number in _SIGNALS:
            signal.signal(number, self._take)

    def kept(self, start: Callable[[], _T]) -> Callable[[], _T]:
        """The same function; whatever signals it takes are ours again after it."""

        def started() -> _T:
            try:
                return start()
            finally:
                self.listen()

        return started

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.is_set():
            print("uadray: ended at once; run the same command again to go on", file=err(), flush=True)
            sys.stdout.flush()
            os._exit(128 + number)
        self.set()
        if self.says:
            log.info("stopping: what is being committed is finished; a second signal ends at once")


@contextmanager
def stopping(*, says: bool = True) -> Iterator[Stopping]:
    """An event that SIGINT and SIGTERM set for a `with` block."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    event = Stopping()
    event.says = says
    event.listen()
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
