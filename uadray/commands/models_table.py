"""What is known of models that train side by side, and how it is shown: a table in a terminal, elsewhere lines."""

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from uadray.commands import console
from uadray.commands.progress import logged_above
from uadray.commands.run_log import figures_of

State = Literal["waiting", "training", "done", "failed"]

LINE_EVERY_S = 20.0
"""Off a terminal a model that trains has a line so often, and one at every change of its state, phase or validation."""

RATE_S = 20.0
"""The pace is that of the last so many seconds."""

_COLOURS: dict[State, str] = {"waiting": "dim", "training": "cyan", "done": "green", "failed": "red"}

_NOT_LOSSES = {"tiles_per_second", "diversity"}


@dataclass
class Progress:
    """How far one model is.

    Attributes:
        name: of its configuration's file, and of its folder.
        batch_images: images of a step, of all workers together.
        state: where it stands.
        phase: of its training.
        done: steps.
        total: steps in all.
        losses: the newest, by name.
        figures: of the newest validation, by name.
        why: it has failed, in a sentence; or what it waits for.
    """

    name: str
    batch_images: int
    state: State = "waiting"
    phase: str = ""
    done: int = 0
    total: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    why: str = ""
    _steps: deque[tuple[float, int]] = field(default_factory=deque)

    def take(self, done: int, total: int, line: dict[str, Any]) -> None:
        """What its training has told."""
        self.done, self.total, self.phase = done, total, str(line.get("phase", ""))
        self.state = "training"
        validated = set(line.get("validated", ()))
        values = figures_of(line)
        self.figures = {name: value for name, value in values.items() if name in validated}
        self.losses = {k: v for k, v in values.items() if k not in validated and k not in _NOT_LOSSES}
        self._steps.append((time.monotonic(), done))
        while len(self._steps) > 2 and self._steps[-1][0] - self._steps[0][0] > RATE_S:
            self._steps.popleft()

    @property
    def images_per_second(self) -> float | None:
        """The pace of late; None where it does not train or nothing is known."""
        if self.state != "training" or len(self._steps) < 2:
            return None
        (began, first), (at, last) = self._steps[0], self._steps[-1]
        return (last - first) * self.batch_images / (at - began) if at > began else None


class Show(Protocol):
    """Shows how far all models are."""

    def __call__(self, models: Sequence[Progress]) -> None:
        """Called again and again, whether anything has changed or not."""
        ...


@contextmanager
def shown(title: str) -> Iterator[Show]:
    """A table on a terminal; off a terminal a line of the log at a change."""
    console.divert()
    if not console.err().isatty():
        yield _Lines().show
        return
    screen = Console(file=console.err())
    live = Live(console=screen, refresh_per_second=4, redirect_stdout=False, redirect_stderr=False)
    with live, logged_above(screen):
        yield lambda models: live.update(table_of(models, title=title))


def table_of(models: Sequence[Progress], *, title: str) -> Table:
    """One row a model."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("model", "state", "phase"):
        table.add_column(name)
    table.add_column("steps", justify="right", no_wrap=True)
    table.add_column("images/s", justify="right")
    table.add_column("newest losses", ratio=1)
    table.add_column("validation")
    for model in models:
        said = Text(model.why, "red" if model.state == "failed" else "dim") if model.why else _values(model.losses)
        pace = model.images_per_second
        table.add_row(
            Text(model.name, "bold"), Text(model.state, _COLOURS[model.state]), Text(model.phase), _steps(model),
            "" if pace is None else f"{pace:.3g}", said, _values(model.figures),
        )  # fmt: skip
    return table


def _steps(model: Progress) -> str:
    return f"{model.done:,} of {model.total:,}" if model.total else ""


def _values(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())


class _Lines:
    """Lines of the log, where there is no terminal."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[Any, float]] = {}

    def show(self, models: Sequence[Progress]) -> None:
        """A line for each model that has changed, or has trained for `LINE_EVERY_S` since its last."""
        for model in models:
            now = time.monotonic()
            facts = (model.state, model.phase, tuple(model.figures.items()))
            before, at = self._said.get(model.name, (None, 0.0))
            if facts == before and (model.state != "training" or now - at < LINE_EVERY_S):
                continue
            self._said[model.name] = facts, now
            log = logging.getLogger("uadray.progress")
            log.log(logging.WARNING if model.state == "failed" else logging.INFO, "%s", line_of(model))


def line_of(model: Progress) -> str:
    """A model in a line.

    >>> model = Progress("dcgan", 32, state="training", phase="gan", done=5, total=10, losses={"generator": 0.25})
    >>> line_of(model)
    'dcgan: training, gan, 5 of 10 steps, generator 0.25'
    >>> line_of(Progress("dcgan", 32, state="failed", why="no more disk"))
    'dcgan: failed: no more disk'
    """
    pace = model.images_per_second
    parts = [
        model.state, model.phase, f"{_steps(model)} steps" if model.total else "",
        "" if pace is None else f"{pace:.3g} images/s", _values(model.losses), _values(model.figures),
    ]  # fmt: skip
    if model.why:
        return f"{model.name}: {model.state}: {model.why}"
    return f"{model.name}: {', '.join(part for part in parts if part)}"
