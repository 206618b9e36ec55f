"""What a job will take, before it is started: tiles, bytes and hours, from a random sample of the slides.

Each sampled slide is measured on the cluster (see `screening.slide_costs`). Means of the sample times the number of
slides are the totals, with an interval that says how far another sample's could lie from them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from uadray.cluster.nodes import Nodes
from uadray.cluster.tasks import Crashed, in_parallel
from uadray.screening.slide_costs import Job, SlideCosts, measure_slide
from uadray.slides.manifest import SlideRow
from uadray.tiles.spec import TileSpec

RESAMPLES = 1000
"""Of the bootstrap (Efron 1979) behind `_low` and `_high`: the 5th and 95th percentile of the sample's mean."""


def estimate(
    rows: Sequence[SlideRow], spec: TileSpec, *, job: Job = "tile", tiles_per_slide: int | None = None,
    quality: int = 90, seconds_per_tile: float = 0.0, sample_slides: int = 20, sample_tiles: int = 256, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Tiles, bytes and hours of a job on this cluster, from slides sampled at random.

    Args:
        rows: the slides.
        spec: how tiles are cut.
        job: what is done with them.
        tiles_per_slide: random tiles of each slide; None for all.
        quality: of JPEG, for the job `tile`.
        seconds_per_tile: CPU seconds that scoring takes a tile, as measured; 0 leaves scoring out.
        sample_slides: slides to sample, at the most.
        sample_tiles: tiles to read of each, at the most.
        seed: of the sample.

    Returns:
        `slides`, `tiles`, `bytes_read`, `bytes_written`, `hours` for all CPUs of the cluster, each of the last four
        with `_low` and `_high`; `sampled_slides`, `sampled_tiles`, `cpus`, `read_seconds_per_tile` (mean and standard
        deviation over slides), `scoring_included`, and `unusable` slides of the sample.

    Raises:
        WorkError: nodes are lost faster than slides are measured.
    """
    count = min(sample_slides, len(rows))
    numbers = np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False))
    chosen = [rows[i] for i in numbers]
    nodes = Nodes()
    costs = _measured(chosen, spec, job, tiles_per_slide, quality, sample_tiles, seed, nodes=nodes)
    cpus = nodes.cores()
    per_slide: dict[str, Sequence[float]] = {
        "tiles": [c.tiles for c in costs],
        "bytes_read": [c.bytes_read for c in costs],
        "bytes_written": [c.bytes_written for c in costs],
        "hours": [(c.seconds + c.tiles * seconds_per_tile) / cpus / 3600 for c in costs],
    }
    read_s = np.array([c.read_s / c.tried for c in costs if c.tried])
    return {
        "slides": len(rows),
        **{k: v for name, values in per_slide.items() for k, v in total(name, values, len(rows), seed).items()},
        "sampled_slides": count,
        "sampled_tiles": sum(c.tried for c in costs),
        "cpus": cpus,
        "read_seconds_per_tile": {"mean": _mean(read_s), "sd": float(read_s.std()) if len(read_s) else None},
        "scoring_included": seconds_per_tile > 0,
        "unusable": {row.slide_id: c.error for row, c in zip(chosen, costs, strict=True) if c.error},
    }


def _measured(rows: list[SlideRow], *arguments: Any, nodes: Nodes) -> list[SlideCosts]:
    """The costs of each slide, in the order of `rows`."""
    costs = {}
    for row, answer in in_parallel(measure_slide, rows, *arguments, nodes=nodes):
        if isinstance(answer, Crashed):
            answer = SlideCosts(error=f"crashed: {answer.message}")
        costs[row.slide_id] = answer
    return [costs[row.slide_id] for row in rows]


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def total(name: str, values: Sequence[float], n_slides: int, seed: int) -> dict[str, float]:
    """The sample's mean times all slides, and the interval in which 90 % of other samples' would lie.

    A number of tiles is exact where every slide was sampled.
    """
    sample = np.array(values, np.float64)
    draws = np.random.default_rng([seed, 1]).choice(sample, (RESAMPLES, len(sample))).mean(axis=1)
    low, high = np.percentile(draws, (5, 95)) * n_slides
    if name == "tiles" and len(sample) == n_slides:
        low = high = sample.sum()
    totals = {name: sample.mean() * n_slides, f"{name}_low": low, f"{name}_high": high}
    return {k: float(v) if name == "hours" else round(v) for k, v in totals.items()}
