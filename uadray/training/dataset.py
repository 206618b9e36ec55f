"""Training data as a Ray Dataset: random crops of normal tiles, from slides or from a tile set.

One execution streams all passes of a training (see `uadray.training.passes`): between two passes nobody waits, and the
workers' shares of a pass never overlap. Cropping, flipping, turning and stain augmentation happen in the readers, so
that no byte crosses a process that the network does not see.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from uadray.cluster.nodes import Nodes, on_this_node
from uadray.cluster.read_tasks import TaskSource, bind_read_task
from uadray.cluster.tasks import Crashed, in_parallel
from uadray.errors import SYSTEM_REASONS, InputError, WorkError, reason_of, shown, shows_ids
from uadray.provenance import fingerprint
from uadray.slides.identity import all_marks, contents, new_salt, slide_etag
from uadray.slides.manifest import SlideRow, has_label, read_manifest
from uadray.slides.opening import open_slide
from uadray.storage import s3_client
from uadray.tiles.plan import plan_slide
from uadray.tiles.spec import TileSpec
from uadray.tiles.stain import Stain
from uadray.tiles.stain_fit import median_stain
from uadray.tilesets import containers, records, shards
from uadray.training.crops import (
    FileSource,
    ShardSource,
    SlideSource,
    Source,
    crop_blocks,
    is_staged,
)
from uadray.training.journal import Journal
from uadray.training.passes import BLOCK_BYTES, Passes, pack_corners, plan_passes

log = logging.getLogger(__name__)


SURVEYS_IN_A_ROW = 5
"""Slides, one after the other, that cannot be reached for no fault of theirs: then nothing can be."""


@dataclass(frozen=True)
class TrainingData:
    """What a training reads. May be pickled: Ray Train makes a dataset anew for every group of workers.

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
        reads = [bind_read_task(_crops, self.source, passes, task, *options) for task in range(passes.n_tasks)]
        tasks = TaskSource("crops", reads, bytes_each=BLOCK_BYTES * passes.blocks_per_task)
        dataset = ray.data.read_datasource(tasks, override_num_blocks=passes.n_tasks)  # else Ray cuts blocks further
        dataset.context.target_max_block_size = 2 * BLOCK_BYTES  # a block goes out when it is read
        dataset.context.execution_options.label_selector = self.selector
        dataset.context.enable_progress_bars = False
        dataset.context.print_on_execution_start = False
        return dataset


@dataclass(frozen=True)
class Survey:
    """A slide's tiles, or why there are none.

    Attributes:
        row: the slide's line of the manifest.
        etag: the version of its file.
        n_tiles: its tiles with enough tissue.
        packed: their corners in level-0 pixels, see `uadray.training.passes.pack_corners`.
        staged: read through a local copy of the whole file.
        stain: its stain, where colours are normalised.
        error: what went wrong.
        is_systems: what went wrong says nothing about the slide.
    """

    row: SlideRow
    etag: str = ""
    n_tiles: int = 0
    packed: bytes = b""
    staged: bool = False
    stain: Stain | None = None
    error: str | None = None
    is_systems: bool = False


def training_data(
    uri: str, *, tiles: TileSpec, input_px: int, tiles_per_slide: int | None, label: str, n_tiles: int, seed: int = 0,
    stain_augment: float = 0.0, nodes: Nodes | None = None,
) -> TrainingData:  # fmt: skip
    """The data behind `--data`: a slide manifest, or a tile set of which the tiles labelled `label` are taken.

    Slides are surveyed first (metadata only): a broken one is named and left out, before a step is made.

    Args:
        uri: of the manifest or tile set.
        tiles: how slides are cut.
        input_px: side of a crop.
        tiles_per_slide: random tiles a slide and pass; None for all.
        label: see above.
        n_tiles: that all workers together will take; the dataset has at least as many.
        seed: of draws, order, crops and augmentation.
        stain_augment: strength of the stain augmentation; 0 for none.
        nodes: that are used.

    Raises:
        InputError: no usable slide or tile.
        WorkError: slides cannot be surveyed, for no fault of theirs.
    """
    if containers.is_tile_set(uri):
        containers.check_stain(uri, tiles)
        source, description = _from_tile_set(uri, tiles=tiles, input_px=input_px, label=label, seed=seed)
    else:
        source, description = _from_slides(
            uri, tiles=tiles, per_slide=tiles_per_slide, label=label, seed=seed, nodes=nodes
        )
        tiles = source.spec
    return crop_data(
        source, tiles=tiles, input_px=input_px, n_tiles=n_tiles, seed=seed, stain_augment=stain_augment,
        description=description, nodes=nodes,
    )  # fmt: skip


def crop_data(
    source: Source, *, tiles: TileSpec, input_px: int, n_tiles: int, seed: int, stain_augment: float = 0.0,
    description: dict[str, Any] | None = None, nodes: Nodes | None = None,
) -> TrainingData:  # fmt: skip
    """The training data of a source; arguments as of `training_data`."""
    in_pass = int(source.entry_tiles.sum())
    journal = ray.remote(num_cpus=0)(Journal).options(scheduling_strategy=on_this_node()).remote()
    return TrainingData(
        source=ray.put(source), n_tiles=in_pass, n_needed=n_tiles, seed=seed, input_px=input_px,
        stain_augment=stain_augment, journal=journal, is_patient=s3_client.has_answered(), shares=source.shares,
        tiles=tiles, description=(description or {}) | {"n_tiles": in_pass},
        selector=nodes.selector() if nodes is not None else None,
    )  # fmt: skip


def _crops(where: Any, passes: Passes, task: int, input_px: int, stain_augment: float, journal: Any) -> Any:
    return crop_blocks(
        _fetched(where), passes, task, input_px=input_px, stain_augment=stain_augment, journal=FarJournal(journal)
    )


@lru_cache(maxsize=1)
def _fetched(where: Any) -> Source:
    """The source is put once and fetched once a reader process."""
    found: Source = ray.get(where)
    return found


class FarJournal:
    """A `Journal` in its actor. Calls of one reader arrive in order; what they answer is waited for."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def start(self, task: int) -> None:
        """See `Journal`, here and below."""
        self._actor.start.remote(task)

    def groups(self, names: Sequence[str]) -> list[list[str]]:
        """Waits."""
        found: list[list[str]] = ray.get(self._actor.groups.remote(names))
        return found

    def begin(self, task: int, names: list[str]) -> None:
        """Waits: it has to be known before it can happen."""
        ray.get(self._actor.begin.remote(task, names))

    def end(self, task: int) -> None:
        """Does not wait."""
        self._actor.end.remote(task)

    def note(self, name: str, why: str) -> None:
        """Does not wait."""
        self._actor.note.remote(name, why)


def survey(rows: list[SlideRow], spec: TileSpec, nodes: Nodes | None = None) -> list[Survey]:
    """Open every slide on the cluster and lay its grid; order as in `rows`.

    What cannot be reached for no fault of its own is tried once more when all others are done, beside a slide that
    could be: if that cannot be reached either, nothing can.

    Raises:
        WorkError: credentials, network or disk are at fault.
    """
    found = {s.row.slide_id: s for s in _surveyed(rows, spec, nodes)}
    unreached = [s for s in found.values() if s.is_systems]
    if unreached:
        good = next((s for s in found.values() if not s.is_systems and s.etag), None)
        asked = [s.row for s in [*unreached, *([good] if good else [])]]
        again = {s.row.slide_id: s for s in _surveyed(asked, spec, nodes)}
        if good is None or again[good.row.slide_id].is_systems:
            raise _unreached(len(unreached), unreached[0])
        found |= again
    return [found[row.slide_id] for row in rows]


def _surveyed(rows: list[SlideRow], spec: TileSpec, nodes: Nodes | None) -> Iterator[Survey]:
    in_a_row = 0
    for row, answer in in_parallel(_survey, rows, spec, nodes=nodes):
        found = Survey(row, error=f"crashed: {answer.message}") if isinstance(answer, Crashed) else answer
        in_a_row = in_a_row + 1 if found.is_systems else 0
        if in_a_row >= SURVEYS_IN_A_ROW:
            raise _unreached(in_a_row, found)
        yield found


def _unreached(n: int, last: Survey) -> WorkError:
    return WorkError(
        f"{n} slide{'s' if n > 1 else ''} could not be reached, for no fault of theirs; slide {last.row.slide_id}: "
        f"{last.error}; nothing was trained: mend that and run the same command again"
    )


def _survey(row: SlideRow, spec: TileSpec) -> Survey:
    try:
        etag = slide_etag(row)
        with open_slide(row.uri, slide_id=row.slide_id, mpp=row.mpp, etag=etag) as slide:
            plan = plan_slide(slide, etag=etag, spec=spec)
            corners = np.stack([plan.tiles[name].to_numpy() for name in ("x_level0_px", "y_level0_px")], axis=1)
            packed = pack_corners(corners)
            return Survey(row, etag, len(corners), packed, is_staged(row.uri, slide), plan.stain)
    except Exception as error:  # of this slide, whatever it is: the others go on
        word, message = reason_of(error)
        return Survey(row, error=f"{word}: {' '.join(message.split())[:300]}", is_systems=word in SYSTEM_REASONS)


def _from_slides(
    uri: str, *, tiles: TileSpec, per_slide: int | None, label: str, seed: int, nodes: Nodes | None
) -> tuple[SlideSource, dict[str, Any]]:
    listed = read_manifest(uri)
    rows = [r for r in listed if r.label is None or has_label(r.label, label)]
    if len(rows) < len(listed):
        log.info("%d of %d slides are labelled otherwise than %r", len(listed) - len(rows), len(listed), label)
    if not rows:
        raise InputError(f"manifest {uri}: no slide has the label {label!r}; training takes normal slides alone")
    surveys = survey(rows, tiles, nodes)
    usable = [s for s in surveys if s.n_tiles]
    left_out = {s.row.slide_id: s.error or "no tile with enough tissue" for s in surveys if not s.n_tiles}
    for slide_id, why in left_out.items():
        log.warning("slide %s is left out of the training: %s", shown(slide_id), why if shows_ids() else _reason(why))
    if not usable:
        raise InputError(
            f"manifest {uri}: none of {len(rows)} slides can be used; the first: {next(iter(left_out.items()))}"
        )
    print_of = fingerprint(f"{s.row.slide_id}:{s.etag}" for s in usable)
    used, etags, salt = [s.row for s in usable], {s.row.slide_id: s.etag for s in usable}, new_salt()
    description = {
        "fingerprint": print_of,
        "n_slides": len(usable),
        "left_out": dict(Counter(map(_reason, left_out.values()))),
        "salt": salt,
        "slides": all_marks(used, salt, etags=etags, contents=contents(used)),
    }
    return slide_source(usable, with_reference(tiles, usable), per_slide=per_slide, seed=seed), description


def _reason(why: str) -> str:
    """The word before a message, which may name the slide."""
    return why.partition(":")[0]


def with_reference(spec: TileSpec, surveys: list[Survey]) -> TileSpec:
    """The spec with a stain reference: its own, or the median of the training slides."""
    if spec.stain is None or spec.stain.reference is not None:
        return spec
    reference = median_stain([s.stain for s in surveys if s.stain is not None])
    return spec.model_copy(update={"stain": spec.stain.model_copy(update={"reference": reference})})


def slide_source(surveys: list[Survey], spec: TileSpec, *, per_slide: int | None, seed: int) -> SlideSource:
    """What readers need of the slides of a survey, all with tiles."""
    return SlideSource(
        rows=[s.row for s in surveys],
        etags=[s.etag for s in surveys],
        n_tiles=np.array([s.n_tiles for s in surveys], np.int64),
        packed=np.frombuffer(b"".join(s.packed for s in surveys), np.uint8),
        offsets=np.cumsum([0, *(len(s.packed) for s in surveys)]),
        whole=np.array([s.staged for s in surveys]),
        stains=[s.stain for s in surveys],
        spec=spec,
        per_slide=per_slide,
        seed=seed,
    )


def _from_tile_set(uri: str, *, tiles: TileSpec, input_px: int, label: str, seed: int) -> tuple[Source, dict[str, Any]]:
    match containers.kind(uri):
        case "shards":
            source, print_of = _from_shards(uri, tiles=tiles, input_px=input_px, label=label)
        case "parquet":
            source, print_of = _from_parquet(uri, tiles=tiles, input_px=input_px, label=label)
        case _:
            refs = containers.list_tiles(uri)
            taken = taken_labels(uri, label, {r.label for r in refs})
            refs = [r for r in refs if r.label in taken]
            source, print_of = FileSource(uri, refs, tiles, input_px, seed), fingerprint(r.tile_id for r in refs)
    return source, {"fingerprint": print_of, "label": label}


def _from_shards(uri: str, *, tiles: TileSpec, input_px: int, label: str) -> tuple[Source, str]:
    found = records.read_tile_set(uri)
    numbers = [n for n, s in enumerate(found.slides) if (not s.label or has_label(s.label, label)) and s.n_tiles]
    if not numbers:
        raise InputError(f"tile set {uri}: no slide with tiles has the label {label!r}; set train_label")
    chosen = found.model_copy(update={"slides": [found.slides[n] for n in numbers]})
    runs = shards.folder_ranges(uri, chosen)
    sizes = np.array([run.stop - run.start for _, run in runs], np.int64)
    slides = np.array([n for n, _ in runs], np.int64)
    return ShardSource([run for _, run in runs], slides, sizes, tiles, input_px, None), found.fingerprint


def _from_parquet(uri: str, *, tiles: TileSpec, input_px: int, label: str) -> tuple[Source, str]:
    refs = containers.list_tiles(uri)
    taken = taken_labels(uri, label, {r.label for r in refs})
    chosen = {r.member for r in refs if r.label in taken}
    runs, sizes = [], []
    for run in shards.file_ranges(uri):
        size = sum(f"{run.group}:{row}:{uri}" in chosen for row in range(run.start, run.stop))
        if size:
            runs.append(run)
            sizes.append(size)
    unknown = np.full(len(runs), -1, np.int64)
    source = ShardSource(runs, unknown, np.array(sizes, np.int64), tiles, input_px, tuple(taken))
    return source, fingerprint(r.tile_id for r in refs if r.label in taken)


def taken_labels(uri: str, label: str, found: set[str | None]) -> set[str | None]:
    """Which labels of a tile set are trained on: `label`, or all where the set does not tell tiles apart.

    Raises:
        InputError: it has several others.
    """
    if named_so := {name for name in found if has_label(name, label)}:
        return named_so
    if found - {None, ""} and len(found) > 1:
        named = ", ".join(sorted(map(str, found))[:8])
        raise InputError(f"tile set {uri}: no tile is labelled {label!r} (found: {named}); set train_label")
    return found
