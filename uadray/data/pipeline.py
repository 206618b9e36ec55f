"""Training data as a Ray Dataset: random crops of normal tiles, from slides or from a tile set.

One execution streams all passes of a training (see `uadray.data.passes`): between two passes nobody waits, and the
workers' shares of a pass never overlap. Cropping, flipping, turning and stain augmentation happen in the readers, so
that no byte crosses a process that the network does not see.
"""

import logging
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from uadray.data import shards, tilesets
from uadray.data.crops import FileSource, ShardSource, SlideSource, Source, crop_blocks, is_staged
from uadray.data.datasource import TaskSource, reading
from uadray.data.passes import BLOCK_BYTES, Passes, along_curve, plan_passes
from uadray.data.reading import plan_slide, slide_etag
from uadray.errors import InputError, SlideError, shown, shows_ids
from uadray.identity import all_marks, contents, new_salt
from uadray.manifest import SlideRow, has_label, read_manifest
from uadray.runs import fingerprint
from uadray.slides.reader import open_slide
from uadray.stain import Stain, median_stain
from uadray.tiling import TileSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """What a training reads.

    Attributes:
        dataset: a Ray Dataset, all passes one after the other; rows of `uadray.data.crops.crop_schema`.
        n_tiles: tiles in one pass.
        passes: the order of reading.
        shares: [n_slides], each slide's share of a pass; empty where slides are not known.
        tiles: how slides are cut and prepared, with the stain reference that was fitted, if one was asked for.
        description: fingerprint and counts, for the bundle.
    """

    dataset: Any
    n_tiles: int
    passes: Passes
    shares: npt.NDArray[np.float64]
    tiles: TileSpec
    description: dict[str, Any]


@dataclass(frozen=True)
class Survey:
    """A slide's tiles, or why there are none.

    Attributes:
        row: the slide's line of the manifest.
        etag: the version of its file.
        corners: [n, 2] x and y of its tiles with enough tissue, in level-0 pixels along a Z-curve.
        staged: read through a local copy of the whole file.
        stain: its stain, where colours are normalised.
        error: what went wrong.
    """

    row: SlideRow
    etag: str
    corners: npt.NDArray[np.int32]
    staged: bool
    stain: Stain | None
    error: str | None


def training_data(
    uri: str, *, tiles: TileSpec, input_px: int, tiles_per_slide: int | None, label: str, n_tiles: int, seed: int = 0,
    done_tiles: int = 0, stain_augment: float = 0.0,
) -> TrainingData:  # fmt: skip
    """The dataset behind `--data`: a slide manifest, or a tile set of which the tiles labelled `label` are taken.

    Slides are surveyed first (metadata only): a broken one is named and left out, before a step is made.

    Args:
        uri: of the manifest or tile set.
        tiles: how slides are cut.
        input_px: side of a crop.
        tiles_per_slide: random tiles a slide and pass; None for all.
        label: see above.
        n_tiles: that all workers together will take; the dataset has at least as many.
        seed: of draws, order, crops and augmentation.
        done_tiles: that the run took which this one goes on with; its passes are not drawn again.
        stain_augment: strength of the stain augmentation; 0 for none.

    Raises:
        InputError: no usable slide or tile.
    """
    if tilesets.is_tile_set(uri):
        tilesets.check_stain(uri, tiles)
        source, description = _from_tile_set(uri, tiles=tiles, input_px=input_px, label=label, seed=seed)
    else:
        source, description = _from_slides(uri, tiles=tiles, per_slide=tiles_per_slide, label=label, seed=seed)
        tiles = source.spec
    in_pass = int(source.entry_tiles.sum())
    passes = plan_passes(in_pass, seed=seed, n_tiles=n_tiles, input_px=input_px, first=done_tiles // in_pass)
    dataset = crop_dataset(source, passes, input_px=input_px, stain_augment=stain_augment)
    return TrainingData(dataset, in_pass, passes, source.shares, tiles, description | {"n_tiles": in_pass})


def crop_dataset(source: Source, passes: Passes, *, input_px: int, stain_augment: float = 0.0) -> Any:
    """A Ray Dataset of all blocks of all passes. The source is put once and fetched once a reader process."""
    where = ray.put(source)
    reads = [reading(_crops, where, passes, task, input_px, stain_augment) for task in range(passes.n_tasks)]
    tasks = TaskSource("crops", reads, bytes_each=BLOCK_BYTES * passes.blocks_per_task)
    dataset = ray.data.read_datasource(tasks, override_num_blocks=passes.n_tasks)  # else Ray cuts blocks further
    dataset.context.target_max_block_size = 2 * BLOCK_BYTES  # a block goes out when it is read
    return dataset


def _crops(where: Any, passes: Passes, task: int, input_px: int, stain_augment: float) -> Any:
    return crop_blocks(_fetched(where), passes, task, input_px=input_px, stain_augment=stain_augment)


@lru_cache(maxsize=1)
def _fetched(where: Any) -> Source:
    found: Source = ray.get(where)
    return found


def survey(rows: list[SlideRow], spec: TileSpec) -> list[Survey]:
    """Open every slide on the cluster and lay its grid; order as in `rows`."""
    task = ray.remote(num_cpus=1)(_survey)
    return list(ray.get([task.remote(row, spec) for row in rows]))


def _survey(row: SlideRow, spec: TileSpec) -> Survey:
    try:
        etag = slide_etag(row)
        with open_slide(row.uri, slide_id=row.slide_id, mpp=row.mpp, etag=etag) as slide:
            plan = plan_slide(slide, etag=etag, spec=spec)
            tiles = plan.tiles
            stride = spec.stride * spec.mpp / slide.mpp
            x, y = (tiles[name].to_numpy() for name in ("x_level0_px", "y_level0_px"))
            order = along_curve(np.rint(x / stride).astype(np.int64), np.rint(y / stride).astype(np.int64))
            corners = np.stack([x, y], axis=1)[order].astype(np.int32)
            return Survey(row, etag, corners, is_staged(row.uri, slide), plan.stain, None)
    except SlideError as error:
        return Survey(row, "", np.empty((0, 2), np.int32), False, None, f"{error.reason}: {error.message}")


def _from_slides(
    uri: str, *, tiles: TileSpec, per_slide: int | None, label: str, seed: int
) -> tuple[SlideSource, dict[str, Any]]:
    listed = read_manifest(uri)
    rows = [r for r in listed if r.label is None or has_label(r.label, label)]
    if len(rows) < len(listed):
        log.info("%d of %d slides are labelled otherwise than %r", len(listed) - len(rows), len(listed), label)
    if not rows:
        raise InputError(f"manifest {uri}: no slide has the label {label!r}; training takes normal slides alone")
    surveys = survey(rows, tiles)
    usable = [s for s in surveys if len(s.corners)]
    left_out = {s.row.slide_id: s.error or "no tile with enough tissue" for s in surveys if not len(s.corners)}
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
        corners=np.concatenate([s.corners for s in surveys]),
        offsets=np.cumsum([0, *(len(s.corners) for s in surveys)]),
        whole=np.array([s.staged for s in surveys]),
        stains=[s.stain for s in surveys],
        spec=spec,
        per_slide=per_slide,
        seed=seed,
    )


def _from_tile_set(uri: str, *, tiles: TileSpec, input_px: int, label: str, seed: int) -> tuple[Source, dict[str, Any]]:
    match tilesets.kind(uri):
        case "shards":
            source, print_of = _from_shards(uri, tiles=tiles, input_px=input_px, label=label)
        case "parquet":
            source, print_of = _from_parquet(uri, tiles=tiles, input_px=input_px, label=label)
        case _:
            refs = tilesets.list_tiles(uri)
            taken = taken_labels(uri, label, {r.label for r in refs})
            refs = [r for r in refs if r.label in taken]
            source, print_of = FileSource(uri, refs, tiles, input_px, seed), fingerprint(r.tile_id for r in refs)
    return source, {"fingerprint": print_of, "label": label}


def _from_shards(uri: str, *, tiles: TileSpec, input_px: int, label: str) -> tuple[Source, str]:
    found = shards.read_tile_set(uri)
    numbers = [n for n, s in enumerate(found.slides) if (not s.label or has_label(s.label, label)) and s.n_tiles]
    if not numbers:
        raise InputError(f"tile set {uri}: no slide with tiles has the label {label!r}; set train_label")
    chosen = found.model_copy(update={"slides": [found.slides[n] for n in numbers]})
    runs = shards.folder_runs(uri, chosen)
    sizes = np.array([run.stop - run.start for _, run in runs], np.int64)
    slides = np.array([n for n, _ in runs], np.int64)
    return ShardSource([run for _, run in runs], slides, sizes, tiles, input_px, None), found.fingerprint


def _from_parquet(uri: str, *, tiles: TileSpec, input_px: int, label: str) -> tuple[Source, str]:
    refs = tilesets.list_tiles(uri)
    taken = taken_labels(uri, label, {r.label for r in refs})
    chosen = {r.member for r in refs if r.label in taken}
    runs, sizes = [], []
    for run in shards.file_runs(uri):
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
