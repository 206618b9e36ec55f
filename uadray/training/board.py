"""What the workers of a training tell its driver, and how losses of workers are put into words. Plain Python."""

import re
from dataclasses import dataclass, field

from uadray.detectors.pixels import Pixels
from uadray.errors import WorkError
from uadray.training.loop import Line, Sample, Step


@dataclass
class Tally:
    """What one worker or several have done.

    Attributes:
        tiles: that they learned from.
        seconds: of their steps, waiting included.
        waited_s: of these, for tiles.
        losses: by name, the sum over steps and the number of steps; each phase has losses of its own.
    """

    tiles: int = 0
    seconds: float = 0.0
    waited_s: float = 0.0
    losses: dict[str, tuple[float, int]] = field(default_factory=dict)

    def add(self, step: Step, *, seconds: float) -> None:
        """Count a step."""
        losses = {name: (value, 1) for name, value in step.losses.items()}
        self.merge(Tally(step.tiles, seconds, step.waited_s, losses))

    def merge(self, other: "Tally") -> None:
        """Count what another has counted."""
        self.tiles += other.tiles
        self.seconds += other.seconds
        self.waited_s += other.waited_s
        for name, (value, n) in other.losses.items():
            before, n_before = self.losses.get(name, (0.0, 0))
            self.losses[name] = before + value, n_before + n

    def mean_losses(self) -> dict[str, float]:
        """The mean of each loss over its steps."""
        return {name: value / n for name, (value, n) in self.losses.items()}


@dataclass(frozen=True)
class News:
    """What workers have told.

    Attributes:
        lines: of metrics.
        samples: tiles and what was made of them.
        losses: of workers, in words.
        warnings: of what does not touch the training.
        diverged: how the training diverged or collapsed, if it did.
        tally: what was done.
    """

    lines: list[Line]
    samples: list[Sample]
    losses: list[str]
    warnings: list[str]
    diverged: WorkError | None
    tally: Tally


class Board:
    """Where workers post what the driver shows. On Ray it is an actor on the driver's node."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._samples: list[Sample] = []
        self._losses: list[str] = []
        self._warnings: list[str] = []
        self._addresses: dict[int, str] = {}
        self._diverged: WorkError | None = None
        self._tally = Tally()

    def post(self, line: Line, sample: tuple[Pixels, Pixels | None] | None = None) -> None:
        """Add a line of metrics and, at an epoch's end, tiles and what was made of them."""
        self._lines.append(line)
        if sample is not None:
            self._samples.append((int(line["epoch"]), *sample))

    def count(self, tally: Tally) -> None:
        """Add what a worker has done since it last told."""
        self._tally.merge(tally)

    def sits(self, rank: int, address: str) -> None:
        """A worker says where it is."""
        self._addresses[rank] = address

    def lose(self, errors: dict[int, str], restart: int, most: int, epochs_done: int) -> None:
        """A group of workers has failed: why, by rank ("" for a process that is gone)."""
        self._losses.append(loss_line(errors, self._addresses, restart=restart, most=most, epochs_done=epochs_done))

    def diverge(self, error: WorkError) -> None:
        """The training has come to an end that trying again would not change."""
        self._diverged = self._diverged or error

    def warn(self, text: str) -> None:
        """Something went wrong that does not touch the training."""
        self._warnings.append(text)

    def take(self) -> "News":
        """What has come since the last call."""
        news = News(self._lines, self._samples, self._losses, self._warnings, self._diverged, self._tally)
        self._lines, self._samples, self._losses, self._warnings, self._tally = [], [], [], [], Tally()
        return news


def loss_line(errors: dict[int, str], addresses: dict[int, str], *, restart: int, most: int, epochs_done: int) -> str:
    """What happened to a group of workers, and what comes now: there are `most` restarts.

    Of a process that is gone the others' errors follow.

    >>> loss_line({0: "connection reset", 1: ""}, {1: "10.0.0.3"}, restart=1, most=2, epochs_done=4)
    'training: worker 1 on 10.0.0.3 was lost (its process or node died); restart 1 of 2, after epoch 3'
    >>> loss_line({0: "no more disk"}, {}, restart=3, most=2, epochs_done=0)
    'training: worker 0 failed (no more disk); no more restarts'
    """
    gone = {rank for rank, error in errors.items() if not error}
    rank = min(gone or errors)
    on_node = f" on {addresses[rank]}" if rank in addresses else ""
    what = "was lost (its process or node died)" if gone else f"failed ({errors[rank]})"
    begin = f"after epoch {epochs_done - 1}" if epochs_done else "from the beginning"
    then = f"restart {restart} of {most}, {begin}" if restart <= most else "no more restarts"
    return f"training: worker {rank}{on_node} {what}; {then}"


def sentence(error: BaseException) -> str:
    r"""What an error says to people: of a traceback in it, the last error that is uadray's own; else its last line.

    >>> sentence(RuntimeError("a task failed\nuadray.errors.AccessError: s3://a/b: refused\n  in line 7"))
    's3://a/b: refused'
    """
    lines = str(error).strip().splitlines() or [repr(error)]
    ours = [match[1] for line in lines if (match := re.match(r"uadray\.[\w.]+: (.+)", line.strip()))]
    return (ours or lines)[-1].strip()[:500]
