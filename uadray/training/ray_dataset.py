"""Training tiles as a Ray Dataset: random crops of normal tiles.

One execution streams all passes of a training (see `uadray.training.passes`): between two passes nobody waits, and the
workers' shares of a pass never overlap. Cropping, flipping, turning and stain augmentation happen in the readers, so
that no byte crosses a process that the network does not see.
"""

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from uadray.cluster.datasets import actor_here, answer, fetched, numbered_dataset, shared
from uadray.cluster.nodes import Nodes
from uadray.cluster.tasks import Crashed, in_parallel
from uadray.errors import WorkError
from uadray.slides.identity import Seen
from uadray.slides.manifest import SlideRow
from uadray.tiles.spec import TileSpec
from uadray.training.crops import Source, crop_block, crop_schema
from uadray.training.dataset import training_tiles
from uadray.training.journal import Journal
from uadray.training.parts import Part, Place
from uadray.training.passes import BLOCK_BYTES, Passes, endless_passes
from uadray.training.survey import Survey, survey_slide

AHEAD, LOOK_S = 256, 0.2
"""Blocks whose numbers wait for a reader, and how often it is looked how far readers are."""


@dataclass(frozen=True)
class TrainingData:
    """What a training on Ray reads. May be pickled: Ray Train makes a dataset anew for every group of workers.

    Attributes:
        source: of the tiles, in Ray's object store.
        n_tiles: tiles in one pass.
        seed: of draws, order, crops and augmentation.
        input_px: side of a crop.
        stain_augment: strength of the stain augmentation.
        journal: the actor in which readers keep their `uadray.training.journal.Journal`.
        shares: [n_slides], each slide's share of a pass; empty where slides are not known.
        tiles: how slides are cut and prepared, with the stain reference that was fitted, if one was asked for.
        description: fingerprint and counts, for the bundle.
        selector: labels of the nodes that read, where some are left out.
        task_cpus: that a read task asks Ray for: none where several trainings share the cluster.
        most_tasks: read tasks at once; None leaves it to the CPUs.
    """

    source: Any
    n_tiles: int
    seed: int
    input_px: int
    stain_augment: float
    journal: Any
    shares: npt.NDArray[np.float64]
    tiles: TileSpec
    description: dict[str, Any]
    selector: dict[str, str] | None = None
    task_cpus: float = 1.0
    most_tasks: int | None = None

    @property
    def passes(self) -> Passes:
        """In which order the tiles are read."""
        return endless_passes(self.n_tiles, seed=self.seed, input_px=self.input_px)

    def dataset(self, *, first_block: int = 0, empty_rows: int = 0) -> Any:
        """A Ray Dataset of parts of blocks, a row each, without end; columns of `part_schema`.

        Args:
            first_block: that is read.
            empty_rows: that come before it, so that its rows are dealt to the workers that had them before.
        """
        blocks = partial(_blocks, self.journal, first_block, empty_rows)
        read = partial(_parts, self.source, self.passes, self.input_px, self.stain_augment, self.journal)
        return numbered_dataset(
            "crops",
            blocks,
            read,
            task_bytes=BLOCK_BYTES,
            selector=self.selector,
            task_cpus=self.task_cpus,
            most_tasks=self.most_tasks,
        )


def training_data(
    uri: str, *, tiles: TileSpec, input_px: int, tiles_per_slide: int | None, label: str, seed: int = 0,
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
        read.source, tiles=read.tiles, input_px=input_px, seed=seed, stain_augment=stain_augment,
        description=read.description, nodes=nodes,
    )  # fmt: skip


def crop_data(
    source: Source, *, tiles: TileSpec, input_px: int, seed: int, stain_augment: float = 0.0,
    description: dict[str, Any] | None = None, nodes: Nodes | None = None,
) -> TrainingData:  # fmt: skip
    """The training data of a source; arguments as of `training_data`."""
    in_pass = int(source.entry_tiles.sum())
    return TrainingData(
        source=shared(source), n_tiles=in_pass, seed=seed, input_px=input_px,
        stain_augment=stain_augment, journal=actor_here(Journal),
        shares=source.shares, tiles=tiles, description=(description or {}) | {"n_tiles": in_pass},
        selector=nodes.selector() if nodes is not None else None,
    )  # fmt: skip


def survey_cpus(n_cpus: float) -> float:
    """CPUs that the survey of a slide asks Ray for: one, or half of a job's CPUs where it has fewer than two.

    >>> survey_cpus(2), survey_cpus(2 / 3)
    (1.0, 0.3333)
    """
    return min(1.0, math.floor(n_cpus / 2 * 1e4) / 1e4)


def on_cluster(rows: list[SlideRow], spec: TileSpec, *, nodes: Nodes | None = None) -> Iterator[Survey]:
    """Survey slides in tasks of the cluster; one that kills its process twice is found to have crashed."""
    cpus = survey_cpus(nodes.job_cpus()) if nodes is not None else 1.0
    for row, result in in_parallel(survey_slide, rows, spec, num_cpus=cpus, nodes=nodes):
        yield Survey(row, error=f"crashed: {result.message}") if isinstance(result, Crashed) else result


def part_schema() -> pa.Schema:
    """A row is a part of a block: its place, and of each of its crops the RGB bytes and where it comes from.

    One row, so that Ray Train deals parts to the workers in turn, and cuts none.
    """
    whole = pa.list_(pa.int32())
    return pa.schema(
        {"block": pa.int64(), "part": pa.int32(), "pixels": pa.large_binary(), "pass_number": pa.int32(),
         "slide": whole, "tile": whole}
    )  # fmt: skip


def packed(table: pa.Table, block: int, part: int) -> pa.Table:
    """Rows of `uadray.training.crops.crop_schema` as one of `part_schema`; no byte of a crop is copied."""
    rows = table.combine_chunks()
    column = rows["pixels"].chunk(0) if len(rows) else pa.array([], rows.schema.field("pixels").type)
    width = rows.schema.field("pixels").type.byte_width
    ends = np.array([column.offset, column.offset + len(column)], np.int64) * width
    pixels = pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, pa.py_buffer(ends), column.buffers()[1]])
    numbers = [pa.array([rows[name].to_numpy()], pa.list_(pa.int32())) for name in ("slide", "tile")]
    pass_number = rows["pass_number"][0].as_py() if len(rows) else -1
    columns = [pa.array([block], pa.int64()), pa.array([part], pa.int32()), pixels, pa.array([pass_number], pa.int32())]
    return pa.table([*columns, *numbers], schema=part_schema())


def unpacked(row: pa.Table, side: int) -> Part:
    """The part of a row of `part_schema`."""
    place = Place(row["block"][0].as_py(), part=row["part"][0].as_py())
    crops = np.frombuffer(row["pixels"][0].as_buffer(), np.uint8).reshape(-1, side, side, 3)
    return Part(place, crops.copy())  # the row's memory in Ray's object store is free again


def dealt_parts(rows: Iterable[pa.Table], side: int, *, rank: int, world: int, first_row: int) -> Iterator[Part]:
    """What a worker is dealt: every `world`-th row of a dataset, which begins with row `first_row` of the training.

    Raises:
        WorkError: rows come in another order.
    """
    last = (-1, 0)
    for turn, row in enumerate(rows):
        part = unpacked(row, side)
        place = part.place
        if place.block < 0:  # one of the empty rows
            continue
        if (place.block, place.part) <= last:
            raise WorkError(f"readers' blocks come in disorder: {place.block} after {last[0]}")
        last = (place.block, place.part)
        yield replace(part, place=replace(place, row=first_row + turn * world + rank))


def _blocks(journal: Any, first_block: int, empty_rows: int) -> Iterator[int]:
    """Numbers of blocks without end, at most `AHEAD` of them before a reader has begun with one; -1 for empty rows."""
    yield from itertools.repeat(-1, empty_rows)
    limit = first_block + AHEAD
    for block in itertools.count(first_block):
        while block >= limit:
            limit = max(limit, answer(journal.furthest.remote()) + AHEAD)
            if block >= limit:
                time.sleep(LOOK_S)
        yield block


def _parts(
    source: Any, passes: Passes, input_px: int, stain_augment: float, journal: Any, block: int
) -> Iterator[pa.Table]:
    """Rows of `part_schema` of a block, one at the least."""
    part = 0
    if block >= 0:
        for table in crop_block(
            fetched(source), passes, block, input_px=input_px, stain_augment=stain_augment, journal=FarJournal(journal)
        ):
            yield packed(table, block, part)
            part += 1
    if not part:
        yield packed(crop_schema(input_px).empty_table(), block, 0)


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
