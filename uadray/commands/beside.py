"""A training that stands beside others: what it is given, and how it says how far it is."""

import json
import time
from typing import Any

from pydantic import Field

from uadray.commands import console
from uadray.config import Config

TELL_EVERY_S = 0.5


class Job(Config):
    """What a training beside others is given.

    Attributes:
        share: of the cluster's CPUs.
        begun_at: address of the Ray that was started for all of them; None joins that of `RAY_ADDRESS`.
    """

    share: float = Field(default=1.0, gt=0, le=1)
    begun_at: str | None = None


class Teller:
    """Says on standard output how far a training is, as JSON lines: at most every half second, and at every epoch."""

    def __init__(self) -> None:
        self._at, self._epoch = float("-inf"), -1

    def tell(self, done: int, total: int, line: dict[str, Any]) -> None:
        """Say steps done, steps in all and the newest metrics."""
        epoch, now = int(line.get("epoch", 0)), time.monotonic()
        if done < total and epoch == self._epoch and now - self._at < TELL_EVERY_S:
            return
        self._at, self._epoch = now, epoch
        print(json.dumps({"done": done, "total": total, "line": line}), file=console.out(), flush=True)
