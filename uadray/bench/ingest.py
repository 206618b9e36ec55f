"""`bench ingest`: how long a training step waits for data, from slides on S3 and from a tile set on S3.

Eight slides lie on SeaweedFS on this machine (whose CPU time counts), and so does the tile set that `uadray tile` makes
of them. One worker, then two, read them by the loop that `uadray train` reads with, over the shares that Ray Train
would give them:

- alone: nothing but reading; gives tiles a second, and how well slides are mixed in a batch.
- with steps: each batch is followed by a step of fixed length, `MARGIN` times what reading alone took for a batch. The
  step sleeps, as a CPU does while a GPU works. Waiting is the share of time between steps, after the first
  `WARM_STEPS`, over at least three passes and so two boundaries between passes.

The cases are those of `slides.MPP_CASES`: slides of so many um/px, and tiles of 96 px as of `configs/train/dpa.yaml` at
0.5 um/px. All of this is measured of `exact`; of the others, slides with one worker: a tile set's tiles were resampled
before. Goals are of `exact`.
"""

import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from uadray.bench.seaweed import served
from uadray.bench.slides import DPA, MPP_CASES, upload_copies, write_slide
from uadray.cluster.connection import connect, cores
from uadray.commands.tile import tile_set
from uadray.config import parse_config
from uadray.errors import InputError
from uadray.slides.manifest import write_manifest
from uadray.training.config import TrainConfig
from uadray.training.parts import Part, Place, buffers
from uadray.training.passes import mixing
from uadray.training.ray_dataset import TrainingData, training_data
from uadray.training.worker import batches
from uadray.training.worker_group import worker_cpus

N_SLIDES, TILES_PER_SLIDE = 8, 200
MARGIN = 1.5
"""The length of a step over the time that reading alone takes for a batch."""

WARM_STEPS = 20
ALONE_TILES = 6400
PASSES = 4
"""Passes of the part with steps; the first is partly warm-up."""

GOAL = 0.05


@ray.remote
class Worker:
    """A training worker without a network."""

    def ready(self) -> None:
        """Return once the worker is there."""

    def alone(
        self, shard: Any, config: TrainConfig, in_pass: int, n_tiles: int
    ) -> tuple[float, list[np.ndarray[Any, Any]]]:
        """Read `n_tiles` tiles; returns the mean seconds of a batch after the first, and the slides of each batch."""
        slides: list[np.ndarray[Any, Any]] = []
        stream = batches(_Noted(shard, slides), config, torch.device("cpu"), tiles_per_pass=in_pass)
        times = []
        for _ in itertools.islice(stream, n_tiles // config.batch_size):
            times.append(time.perf_counter())
        return (times[-1] - times[0]) / (len(times) - 1), list(_in_batches(slides, config))

    def steps(self, shard: Any, config: TrainConfig, in_pass: int, n_steps: int, step_s: float) -> list[float]:
        """Take steps of `step_s` seconds; returns how long each waited for its batch."""
        waits = []
        stream = batches(shard, config, torch.device("cpu"), tiles_per_pass=in_pass)
        for _ in range(n_steps):
            began = time.perf_counter()
            next(stream)
            waits.append(time.perf_counter() - began)
            time.sleep(step_s)
        return waits


class _Noted:
    """A shard that notes the slides of the tiles of each of its rows."""

    def __init__(self, shard: Any, slides: list[np.ndarray[Any, Any]]) -> None:
        self._shard, self._slides = shard, slides

    def iter_batches(self, **options: Any) -> Iterator[Any]:
        """As the shard's."""
        for row in self._shard.iter_batches(**options):
            self._slides.append(row["slide"].combine_chunks().flatten().to_numpy())
            yield row


def _in_batches(slides: list[np.ndarray[Any, Any]], config: TrainConfig) -> Iterator[np.ndarray[Any, Any]]:
    """The slides of batches, which come from buffers of the size that a training has."""
    parts = (Part(Place(block), each) for block, each in enumerate(slides))
    for buffer in buffers(parts, seed=config.seed, shuffle_tiles=config.shuffle_tiles, blocks_per_pass=len(slides)):
        whole = len(buffer.crops) // config.batch_size * config.batch_size
        yield from buffer.crops[:whole].reshape(-1, config.batch_size)


def run(*, only: Sequence[str] = ()) -> dict[str, Any]:
    """Measure; returns figures, goals, and whether they are met. Takes about five minutes.

    Figures of the exact case stand beside `cases`, which has those of the others.

    Args:
        only: cases; all unless given.

    Raises:
        InputError: there is no such case.
    """
    if unknown := set(only) - set(MPP_CASES):
        raise InputError(f"bench ingest has no case {', '.join(sorted(unknown))}; there are: {', '.join(MPP_CASES)}")
    cases: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name, served(Path(name) / "s3") as server:
        connect()
        n_cores = cores()
        try:
            for case in only or MPP_CASES:
                cases[case] = _of_case(case, Path(name), f"s3://{server.bucket}/{case}")
        finally:
            ray.shutdown()
    exact = cases.pop("exact", {})
    waiting = {name: value for name, value in exact.items() if name.endswith("_waiting")}
    return {
        "n_slides": N_SLIDES, "tiles_per_pass": N_SLIDES * TILES_PER_SLIDE, "batch": _config("exact").batch_size,
        "cores": n_cores, **exact, "cases": cases, "goals": dict.fromkeys(waiting, GOAL),
        "goals_met": all(value <= GOAL for value in waiting.values()),
    }  # fmt: skip


def _config(case: str) -> TrainConfig:
    config = parse_config(TrainConfig, {"name": "bench", "shuffle_tiles": 512, **DPA}, source="uadray.bench.ingest")
    tiles = config.tiles.model_copy(update={"mpp": MPP_CASES[case][1]})
    return config.model_copy(update={"tiles": tiles})


def _of_case(case: str, local: Path, folder: str) -> dict[str, Any]:
    config = _config(case)
    slide = write_slide(local / f"{case}.tif", repeats=2, mpp=MPP_CASES[case][0])
    rows = upload_copies(slide, f"{folder}/slides", N_SLIDES)
    write_manifest(rows, f"{folder}/slides.csv")
    if case != "exact":
        return _measured({"slides": f"{folder}/slides.csv"}, config, workers=(1,))
    tile_set(rows, config.tiles, f"{folder}/tiles", tiles_per_slide=TILES_PER_SLIDE)
    uris = {"slides": f"{folder}/slides.csv", "tiles": f"{folder}/tiles"}
    return _measured(uris, config, workers=(1, 2))


def _measured(uris: dict[str, str], config: TrainConfig, *, workers: tuple[int, ...]) -> dict[str, Any]:
    held = worker_cpus(max(workers), cores())  # as Ray Train's workers hold theirs; the rest is for reading
    actors = [Worker.options(num_cpus=held).remote() for _ in range(max(workers))]  # type: ignore[attr-defined]
    ray.get([actor.ready.remote() for actor in actors])
    figures: dict[str, Any] = {}
    for source, uri in uris.items():
        for n in workers:
            case = _case(uri, config, actors[:n])
            figures |= {f"{source}_{n}_{name}": value for name, value in case.items()}
    for actor in actors:
        ray.kill(actor)
    return figures


def _case(uri: str, config: TrainConfig, workers: list[Any]) -> dict[str, Any]:
    n = len(workers)
    data = _data(uri, config)
    shares = _shares(data, n)
    alone = ray.get(
        [w.alone.remote(s, config, data.n_tiles, ALONE_TILES // n) for w, s in zip(workers, shares, strict=True)]
    )
    batch_s = max(seconds for seconds, _ in alone)
    step_s = MARGIN * batch_s
    n_steps = PASSES * data.n_tiles // (n * config.batch_size)
    figures = {
        "tiles_per_s_alone": n * config.batch_size / batch_s,
        "mixing": mixing([b for _, slides in alone for b in slides], data.shares),
        "step_s": step_s,
        "boundaries": n * n_steps * config.batch_size // data.n_tiles - 1,
        **_waiting(workers, data, config, n_steps, step_s),
    }
    return {name: round(value, 4) for name, value in figures.items()}


def _data(uri: str, config: TrainConfig) -> TrainingData:
    """The training data, as `uadray train` makes it."""
    return training_data(
        uri, tiles=config.tiles, input_px=config.input_px, tiles_per_slide=TILES_PER_SLIDE,
        label=config.train_label,
    )  # fmt: skip


def _shares(data: TrainingData, n: int) -> list[Any]:
    """The shares of the data that Ray Train gives to each of `n` workers."""
    return list(data.dataset().streaming_split(n, equal=True))


def _waiting(
    workers: list[Any], data: TrainingData, config: TrainConfig, n_steps: int, step_s: float
) -> dict[str, float]:
    shares = _shares(data, len(workers))
    waits = np.array(
        ray.get(
            [w.steps.remote(s, config, data.n_tiles, n_steps, step_s) for w, s in zip(workers, shares, strict=True)]
        )
    )[:, WARM_STEPS:]
    waited = waits.sum(axis=1)
    return {
        "waiting": float((waited / (waited + waits.shape[1] * step_s)).max()),
        "longest_wait_s": float(waits.max()),
    }
