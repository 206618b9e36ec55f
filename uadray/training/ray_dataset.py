"""Training tiles as a Ray Dataset: random crops of normal tiles.

One execution streams all passes of a training (see `uadray.training.passes`): between two passes nobody waits, and the
workers' shares of a pass never overlap. Cropping, flipping, turning and stain augmentation happen in the readers, so
that no byte crosses a process that the network does not see.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from uadray.cluster.datasets import actor_here, answer, fetched, shared, task_dataset
from uadray.cluster.nodes import Nodes
from uadray.cluster.tasks import Crashed, in_parallel
from uadray.slides.identity import Seen
from uadray.slides.manifest import SlideRow
from uadray.storage import s3_client
from uadray.tiles.spec import TileSpec
from uadray.training.crops import Source, crop_blocks
from uadray.training.dataset import training_tiles
from uadray.training.journal import Journal
from uadray.training.passes import BLOCK_BYTES, Passes, plan_passes
from uadray.training.survey import Survey, survey_slide


@dataclass(frozen=True)
class TrainingData:
    """What a training on Ray reads. May be pickled: Ray Train makes a dataset anew for every group of workers.

    Attributes:
        source: of the tiles, in Ray's object store.
        n_tiles: tiles in one pass.
        n_needed: tiles that all workers together will take.
        seed: of draws, order, crops and augmentation.
        input_px: side of a crop.
        stain_augment: strength of the stain augmentation.
        journal: the actor in which readers keep their `uadray.training.journal.Journal`.
        is_patient: the driver has reached S3, so readers wait for it from their first request on.
        shares: [n_slides], each slide's share of a pass; empty where slides are not known.
        tiles: how slides are cut and prepared, with the stain reference that was fitted, if one was asked for.
        description: fingerprint and counts, for the bundle.
        selector: labels of the nodes that read, where some are left out.
        task_cpus: that a read task asks Ray for: less than one where several trainings share the cluster.
    """

    source: Any
    n_tiles: int
    n_needed: int
    seed: int
    input_px: int
    stain_augment: float
    journal: Any
    is_patient: bool
    shares: npt.NDArray[np.float64]
    tiles: TileSpec
    description: dict[str, Any]
    selector: dict[str, str] | None = None
    task_cpus: float = 1.0

    @property
    def dataset(self) -> Any:
        """A Ray Dataset, all passes one after the other; rows of `uadray.training.crops.crop_schema`."""
        return self.dataset_after(0)

    def dataset_after(self, done_tiles: int) -> Any:
        """As `dataset`, from where a training has taken so many tiles."""
        passes = plan_passes(
            self.n_tiles, seed=self.seed, n_tiles=max(0, self.n_needed - done_tiles), input_px=self.input_px,
            done_tiles=done_tiles,
        )  # fmt: skip
        if self.is_patient:
            s3_client.assume_reachable()
        options = (self.input_px, self.stain_augment, self.journal)
        return task_dataset(
            "crops", _crops, [(self.source, passes, task, *options) for task in range(passes.n_tasks)],
            task_bytes=BLOCK_BYTES * passes.blocks_per_task, block_bytes=2 * BLOCK_BYTES,  # goes out when it is read
            selector=self.selector, task_cpus=self.task_cpus,
        )  # fmt: skip


def training_data(
    uri: str, *, tiles: TileSpec, input_px: int, tiles_per_slide: int | None, label: str, n_tiles: int, seed: int = 0,
    stain_augment: float = 0.0, nodes: Nodes | None = None, split: str | None = None, seen_before: Seen | None = None,
) -> TrainingData:  # fmt: skip
    """The data behind `--data` for workers on the cluster, where slides are surveyed too.

    Args:
        uri: of the manifest or tile set; this, `tiles`, `input_px`, `tiles_per_slide`, `label`, `seed`, `split`,
            `seen_before` and the errors as of `uadray.training.dataset.training_tiles`.
        tiles: see above.
        input_px: see above.
        tiles_per_slide: see above.
        label: see above.
        n_tiles: that all workers together will take; the dataset has at least as many.
        seed: see above.
        stain_augment: strength of the stain augmentation; 0 for none.
        nodes: that are used.
        split: see above.
        seen_before: see above.
    """
    read = training_tiles(
        uri, tiles=tiles, input_px=input_px, tiles_per_slide=tiles_per_slide, label=label, seed=seed,
        survey_each=partial(on_cluster, nodes=nodes), split=split, seen_before=seen_before,
    )  # fmt: skip
    return crop_data(
        read.source, tiles=read.tiles, input_px=input_px, n_tiles=n_tiles, seed=seed, stain_augment=stain_augment,
        description=read.description, nodes=nodes,
    )  # fmt: skip


def crop_data(
    source: Source, *, tiles: TileSpec, input_px: int, n_tiles: int, seed: int, stain_augment: float = 0.0,
    description: dict[str, Any] | None = None, nodes: Nodes | None = None,
) -> TrainingData:  # fmt: skip
    """The training data of a source; arguments as of `training_data`."""
    in_pass = int(source.entry_tiles.sum())
    return TrainingData(
        source=shared(source), n_tiles=in_pass, n_needed=n_tiles, seed=seed, input_px=input_px,
        stain_augment=stain_augment, journal=actor_here(Journal), is_patient=s3_client.has_answered(),
        shares=source.shares, tiles=tiles, description=(description or {}) | {"n_tiles": in_pass},
        selector=nodes.selector() if nodes is not None else None,
        task_cpus=reader_cpus(nodes.job_cpus()) if nodes is not None else 1.0,
    )  # fmt: skip


def reader_cpus(n_cpus: float) -> float:
    """CPUs that a read task asks Ray for: one, or half of a job's CPUs where it has fewer than two.

    >>> reader_cpus(2), reader_cpus(2 / 3)
    (1.0, 0.3333)
    """
    return min(1.0, math.floor(n_cpus / 2 * 1e4) / 1e4)


def on_cluster(rows: list[SlideRow], spec: TileSpec, *, nodes: Nodes | None = None) -> Iterator[Survey]:
    """Survey slides in tasks of the cluster; one that kills its process twice is found to have crashed."""
    cpus = reader_cpus(nodes.job_cpus()) if nodes is not None else 1.0
    for row, result in in_parallel(survey_slide, rows, spec, num_cpus=cpus, nodes=nodes):
        yield Survey(row, error=f"crashed: {result.message}") if isinstance(result, Crashed) else result


def _crops(
    source: Any, passes: Passes, task: int, input_px: int, stain_augment: float, journal: Any
) -> Iterator[pa.Table]:
    return crop_blocks(
        fetched(source), passes, task, input_px=input_px, stain_augment=stain_augment, journal=FarJournal(journal)
    )


class FarJournal:
    """A `Journal` in its actor. Calls of one reader arrive in order; what they answer is waited for."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def start(self, task: int) -> None:
        """See `Journal`, here and below."""
        self._actor.start.remote(task)

    def groups(self, names: Sequence[str]) -> list[list[str]]:
        """Waits."""
        groups: list[list[str]] = answer(self._actor.groups.remote(names))
        return groups

    def begin(self, task: int, names: list[str]) -> None:
        """Waits: it has to be known before it can happen."""
        answer(self._actor.begin.remote(task, names))

    def end(self, task: int) -> None:
        """Does not wait."""
        self._actor.end.remote(task)

    def note(self, name: str, why: str) -> None:
        """Does not wait."""
        self._actor.note.remote(name, why)
