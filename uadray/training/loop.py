"""The loop of a training, from the first tiles to the last epoch: one for both hosts, on Ray and without it.

Random numbers follow from seed, worker and epoch, so that a training that goes on from a checkpoint draws the latents
that it would have drawn.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from uadray.detectors.pixels import Pixels, to_pixels
from uadray.detectors.trainee import Losses, Trainee
from uadray.errors import WorkError
from uadray.networks.outline import Networks
from uadray.training.arithmetic import lowered
from uadray.training.collapse import Newest, collapse, diversity_of, has_collapsed
from uadray.training.config import PREPARE_TILES, TrainConfig

IMAGES = "images_shown"
"""Name in a trainee's `counts`, and in lines of metrics: tiles that all workers together have taken steps on."""

SAMPLES = 16
"""Tiles that are reconstructed for people to look at, the same ones at every epoch."""

Line = dict[str, Any]
"""Names and values of a line of metrics.jsonl."""

Sample = tuple[int, Pixels, Pixels | None]
"""Epoch, tiles [N, h, w, 3], and what was made of them, or None."""

Listener = Callable[[list[Line], list[Sample]], None]
"""Told of lines and samples as they come. Lines of single steps have `epoch`, `step`, `phase` and `images_shown` alone;
that of an epoch's end has `end_of_epoch`."""


class DivergedError(WorkError):
    """A loss is no number any more: trying again from a checkpoint would end in the same place."""


@dataclass(frozen=True)
class Reached:
    """Where a training stands at the end of an epoch.

    Attributes:
        lines: of metrics, one for each epoch that is done.
        samples: [SAMPLES, 3, h, w], the tiles that people are shown.
    """

    lines: list[Line]
    samples: Tensor


@dataclass(frozen=True)
class Step:
    """What one step took and gave.

    Attributes:
        tiles: of its batch; 0 where none has been made.
        waited_s: for the batch.
        losses: by name.
    """

    tiles: int = 0
    waited_s: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)


class Host(Protocol):
    """What runs a training: a worker of Ray Train, or this process alone.

    Attributes:
        rank: of this worker within its group.
        world: how many workers the group has.
    """

    rank: int
    world: int

    def any_of(self, flag: bool) -> bool:
        """Tell every worker of the group whether any of them says yes."""
        ...

    def agree(self, networks: Networks) -> None:
        """Give every worker of the group the same networks."""
        ...

    def at(self, line: Line, step: Step) -> None:
        """A step has been made, or is begun: `epoch`, steps done, `phase`; and what it took."""
        ...

    def keep(self, trainee: Trainee, reached: Reached) -> None:
        """An epoch has ended: keep a checkpoint, and show what was reached."""
        ...


def run_training(
    config: TrainConfig, trainee: Trainee, stream: Iterator[Tensor], host: Host, reached: Reached | None = None
) -> list[Line]:
    """Train to the last epoch; returns the lines of all epochs.

    Args:
        config: the run.
        trainee: what learns; already as it was where `reached`.
        stream: of batches, from the place where `reached` had come to.
        host: of this training.
        reached: where a checkpoint goes on; None begins.

    Raises:
        DivergedError: in all workers at the same step.
        CollapsedError: likewise, before the checkpoint of that epoch.
    """
    if reached is None:
        host.at({"epoch": 0, "step": 0, "phase": "prepare"}, Step())
        reached = Reached([], prepare(trainee, stream))
        host.agree(trainee.networks)
    newest = Newest(stream)
    for epoch in range(len(reached.lines), config.epochs):
        line = run_epoch(config, trainee, newest, epoch, host=host)
        reached.lines.append(_judged(config, trainee, line, reached.lines, newest, host))
        if epoch == config.epochs - 1:
            trainee.finish()
        host.keep(trainee, reached)
    return reached.lines


def _judged(config: TrainConfig, trainee: Trainee, line: Line, before: list[Line], newest: Newest, host: Host) -> Line:
    """The line of an epoch, with the generator's diversity where one is trained.

    Raises:
        CollapsedError: in all workers, since the first of them finds that it has collapsed.
    """
    if config.generator is None:
        return line
    if host.rank == 0:
        line = line | {"diversity": diversity_of(config, trainee, newest.tiles())}
    earlier = [float(each.get("diversity", 0.0)) for each in before]
    is_bad = host.rank == 0 and has_collapsed(line["diversity"], earlier, images=int(line[IMAGES]))
    if host.any_of(is_bad and config.stop_on_collapse):
        raise collapse(config, trainee, line)
    return line


def prepare(trainee: Trainee, stream: Iterator[Tensor]) -> Tensor:
    """Show the trainee `PREPARE_TILES` tiles; returns the first of them, [SAMPLES, 3, h, w], for people to look at."""
    batches: list[Tensor] = []
    while sum(len(x) for x in batches) < PREPARE_TILES:
        batches.append(next(stream))
    tiles = torch.cat(batches)
    trainee.prepare(tiles)
    return tiles[:SAMPLES].clone()


def run_epoch(config: TrainConfig, trainee: Trainee, stream: Iterator[Tensor], epoch: int, *, host: Host) -> Line:
    """Run one epoch.

    Args:
        config: the run.
        trainee: what learns.
        stream: of batches.
        epoch: its number, from 0.
        host: of this training.

    Returns:
        Epoch, steps done, the phase of the last of them, images shown, the means of the losses, and the pace.

    Raises:
        DivergedError: in all workers at the same step.
    """
    torch.manual_seed(int(np.random.SeedSequence([config.seed, host.rank, epoch]).generate_state(1)[0]))
    for network in trainee.networks.values():
        network.train()
    losses: dict[str, list[float]] = {}
    began, waited = time.perf_counter(), 0.0
    first, end = epoch * config.steps_per_epoch, (epoch + 1) * config.steps_per_epoch
    phase = ""
    for done in range(first, end):
        asked = time.perf_counter()
        x = next(stream)
        waited_s = time.perf_counter() - asked
        waited += waited_s
        progress = done / (config.epochs * config.steps_per_epoch)
        phase = trainee.phase(progress)
        with lowered(config, x.device):
            given = trainee.step(x, progress)
        trainee.counts[IMAGES] = trainee.counts.get(IMAGES, 0) + len(x) * host.world
        values = as_floats(given)
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if host.any_of(bool(bad)):
            raise DivergedError(_diverged(config, trainee, done, bad))
        for name, value in values.items():
            losses.setdefault(name, []).append(value)
        line = {"epoch": epoch, "step": done + 1, "phase": phase, IMAGES: trainee.counts[IMAGES]}
        host.at(line, Step(len(x), waited_s, values))
    seconds = time.perf_counter() - began
    means = {name: float(np.mean(values)) for name, values in losses.items()}
    pace = {"seconds": seconds, "tiles_per_second": config.steps_per_epoch * config.batch_size / seconds}
    at = {"epoch": epoch, "step": end, "phase": phase, IMAGES: trainee.counts.get(IMAGES, 0)}
    return at | {"waiting": waited / seconds} | pace | means


def as_floats(losses: Losses) -> dict[str, float]:
    """The losses as numbers; a GPU is waited for once, however many there are."""
    device = next((value.device for value in losses.values() if isinstance(value, Tensor)), None)
    values = [torch.as_tensor(value, dtype=torch.float64, device=device).reshape(()) for value in losses.values()]
    return dict(zip(losses, torch.stack(values).tolist(), strict=True)) if values else {}


def _diverged(config: TrainConfig, trainee: Trainee, done: int, bad: list[str]) -> str:
    """What to say of losses that are no numbers, and which learning rate to lower."""
    total = config.epochs * config.steps_per_epoch
    name = trainee.learning_rate(done / total)
    value = getattr(getattr(config, config.section), name) if name else 0.0
    lower = f"lower {config.section}.{name} (now {value:g}), and " if name else ""
    return (
        f"training diverged at step {done + 1} of {total} (epoch {done // config.steps_per_epoch}): "
        f"{', '.join(bad) or 'a loss of another worker'} is not finite; {lower}train into another --out"
    )


@torch.no_grad()
def pictures_of(trainee: Trainee, x: Tensor) -> tuple[Pixels, Pixels | None]:
    """Tiles x [N, 3, h, w] and what is made of them as bytes, networks in the mode in which they score."""
    for network in trainee.networks.values():
        network.eval()
    x_hat = trainee.reconstruct(x)
    return to_pixels(x), None if x_hat is None else to_pixels(x_hat)
