"""Normal tiles -> a trained detector within a budget of minutes, in this process and without Ray.

Minutes are those of an idle machine: on CPUs the CPU time over the threads, so that other work on the machine makes no
detector worse; on a GPU wall time.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from uadray.bench.detector_data import SPEC
from uadray.detectors.building import build_detector
from uadray.detectors.detector import Detector
from uadray.errors import InputError, WorkError
from uadray.networks import weights
from uadray.networks.outline import Networks
from uadray.tiles.images import Pixels
from uadray.training import array_source
from uadray.training.array_source import ArraySource
from uadray.training.config import TrainConfig, detector_of
from uadray.training.lone_tiles import enough_tissue
from uadray.training.loop import Line, Listener, Sample
from uadray.training.plain import train_plain
from uadray.training.subject import borrowed_weights

TRIAL_STEPS = 10
"""Steps of the trial that measures the pace, or as many as the detector needs; they go through all phases."""

SPARE = 0.1
"""Share of the budget that is left to what no step shows: the last fit, checkpoints."""

AT_ONCE = 512
"""Tiles that are prepared and scored together."""

Floats = npt.NDArray[np.float64]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Trained:
    """A detector and what its training took.

    Attributes:
        score: RGB tiles [n, 96, 96, 3] at 0.972 um a pixel -> [n], in this process.
        networks: it is made of.
        figures: minutes, CPU seconds, steps and tiles; what the detector sees of a tile.
    """

    detector: Detector
    config: TrainConfig
    networks: Networks
    figures: dict[str, Any]

    def score(self, tiles: Pixels) -> Floats:
        """RGB tiles [n, 96, 96, 3] at 0.972 um a pixel -> [n], higher = more abnormal.

        Raises:
            WorkError: a score is no number.
        """
        return scored(self.detector, tiles, mpp=self.config.tiles.mpp)


def scored(detector: Detector, tiles: Pixels, *, mpp: float) -> Floats:
    """Scores [n] of RGB tiles [n, 96, 96, 3] at 0.972 um a pixel, by a detector of tiles of another pixel size maybe.

    Raises:
        WorkError: a score is no number.
    """
    parts = [tiles[start : start + AT_ONCE] for start in range(0, len(tiles), AT_ONCE)]
    scores = np.concatenate([detector(resampled(part, mpp)).score for part in parts])
    if bad := int((~np.isfinite(scores)).sum()):
        raise WorkError(f"{bad} of {len(scores)} scores are no numbers")
    return scores


def trained(config: TrainConfig, tiles: Pixels, *, minutes: float, device: str) -> Trained:
    """Train on normal tiles, with as many of the configured steps as the budget holds at the pace of a trial.

    The learning rate and the phases follow the shortened training to its end. The trial counts as part of the budget;
    a training that is no longer than the trial is made as it is configured.

    Args:
        config: the run; of its `workers` there is one.
        tiles: RGB [n, 96, 96, 3] at 0.972 um a pixel; those with less tissue than configured are left out, as in
            `uadray train`. The configuration's mpp is met by resampling, its stain normalisation left out.
        minutes: the budget, see the module.
        device: "cpu" or "cuda".

    Raises:
        UadrayError: it diverges, its weights cannot be had, or the tiles are smaller than its input.
    """
    config = _here(config, device)
    now_s = clock("cuda" if config.use_gpu else "cpu", config.threads)
    began_s, wall_began, cpu_began = now_s(), time.perf_counter(), time.process_time()
    for name in borrowed_weights(config):
        weights.ensure(name)
    with_tissue = SPEC.model_copy(update={"min_tissue": config.trained_tiles.min_tissue})
    usable_tiles = resampled(np.stack([tile for tile in tiles if enough_tissue(tile, with_tissue)]), config.tiles.mpp)
    check_side(config.input_px, mpp=config.tiles.mpp)
    source = ArraySource(usable_tiles, config.seed)
    shortened = config
    if config.epochs * config.steps_per_epoch > TRIAL_STEPS:
        prepare_s, step_s = pace(config, source, now_s)
        left_s = 60 * minutes * (1 - SPARE) - (now_s() - began_s) - prepare_s
        shortened = within(config, int(left_s / max(step_s, 1e-6)))
    networks, last = _trained(shortened, source)
    figures = {
        "minutes": (now_s() - began_s) / 60,
        "wall_minutes": (time.perf_counter() - wall_began) / 60,
        "cpu_s": time.process_time() - cpu_began,
        "steps": shortened.epochs * shortened.steps_per_epoch,
        "steps_configured": config.epochs * config.steps_per_epoch,
        "tiles_seen": shortened.tiles_taken(shortened.epochs),
        "tiles_of_train": len(usable_tiles),
        "tile_px": usable_tiles.shape[1],
        "tile_mpp": config.tiles.mpp,
        "input_px": config.input_px,
        "last": {name: value for name, value in last.items() if isinstance(value, int | float)},
    }
    return Trained(build_detector(detector_of(config), networks, device=device), config, networks, figures)


def briefly_trained(config: TrainConfig, tiles: Pixels, *, steps: int, device: str) -> Networks:
    """The networks after a few steps, everything fitted, for who measures their pace.

    Args:
        config: the run.
        tiles: RGB [n, 96, 96, 3] at 0.972 um a pixel.
        steps: of the training, if it needs no more.
        device: "cpu" or "cuda".
    """
    config = _here(config, device)
    return _trained(within(config, steps), ArraySource(resampled(tiles, config.tiles.mpp), config.seed))[0]


def within(config: TrainConfig, steps: int) -> TrainConfig:
    """The training with at most so many steps, and at least as many as the detector needs.

    >>> from uadray.detectors.fanogan import Config
    >>> long = TrainConfig(name="a", detector=Config(kind="fanogan"), tiles=SPEC, epochs=10, steps_per_epoch=100)
    >>> [(short.epochs, short.steps_per_epoch) for short in (within(long, n) for n in (5000, 250, 7, -1))]
    [(10, 100), (10, 25), (7, 1), (1, 1)]
    """
    least = getattr(config.detector, "least_steps", 1)
    steps = max(least, min(steps, config.epochs * config.steps_per_epoch))
    epochs = min(config.epochs, steps // least)  # so that rounding leaves no fewer
    return config.model_copy(update={"epochs": epochs, "steps_per_epoch": steps // epochs})


def clock(device: str, threads: int | None = None) -> Clock:
    """Seconds of an idle machine; on a CPU of so many threads, torch's unless given."""
    n = threads or torch.get_num_threads()
    return time.perf_counter if device == "cuda" else lambda: time.process_time() / n


def pace(config: TrainConfig, source: ArraySource, now_s: Clock) -> tuple[float, float]:
    """Seconds until the first step has been made, and of a step after it, from a short training."""
    times: list[float] = [now_s()]

    def listen(lines: list[Line], samples: list[Sample]) -> None:
        times.extend(now_s() for line in lines if line["step"] and "end_of_epoch" not in line)

    steps = max(TRIAL_STEPS, getattr(config.detector, "least_steps", 1))
    _trained(config.model_copy(update={"epochs": 1, "steps_per_epoch": steps}), source, listen)
    return times[1] - times[0], (times[-1] - times[1]) / (steps - 1)


def _unheard(lines: list[Line], samples: list[Sample]) -> None:
    """Nobody looks at single steps."""


def _trained(config: TrainConfig, source: ArraySource, listener: Listener = _unheard) -> tuple[Networks, Line]:
    threads = torch.get_num_threads()
    try:
        with tempfile.TemporaryDirectory(prefix="uadray-bench-") as folder:
            return train_plain(config, source, out=Path(folder).as_uri(), listener=listener)
    finally:
        torch.set_num_threads(threads)  # those of this process, as scoring finds them


def _here(config: TrainConfig, device: str) -> TrainConfig:
    """The run as it is done here: this process's threads, and no stain normalisation, for which a tile is small."""
    tiles, threads = config.tiles.model_copy(update={"stain": None}), config.threads or torch.get_num_threads()
    return config.model_copy(update={"workers": 1, "threads": threads, "use_gpu": device == "cuda", "tiles": tiles})


def side_px(mpp: float) -> int:
    """Pixels along a tile's side at another pixel size."""
    return round(SPEC.tile_px * SPEC.mpp / mpp)


def check_side(input_px: int, *, mpp: float) -> None:
    """Refuse a detector whose input is larger than a tile.

    Raises:
        InputError: naming both.
    """
    if side_px(mpp) < input_px:
        raise InputError(f"its input is {input_px} px at {mpp:g} um; a tile has {side_px(mpp)} px there")


def resampled(tiles: Pixels, mpp: float) -> Pixels:
    """RGB tiles [n, 96, 96, 3] at 0.972 um a pixel, brought to another pixel size; themselves where it is the same."""
    return array_source.resampled(tiles, side_px=side_px(mpp))
