"""Training data as a Ray Dataset: random crops of normal tiles, from slides or from a tile set.

Rows are `{"pixels": RGB bytes of one crop, input_px * input_px * 3}`. Cropping, flipping and turning happen in the
readers, so that no byte crosses a process that the network does not see.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from uadray import cache
from uadray.data import tilesets
from uadray.data.datasource import Read, TaskSource, reading
from uadray.data.reading import plan_slide, read_chunks, slide_etag
from uadray.errors import InputError, SlideError
from uadray.manifest import SlideRow, read_manifest
from uadray.monitoring import metrics
from uadray.runs import fingerprint
from uadray.schemas import TILES
from uadray.slides.reader import open_slide
from uadray.tiling import TileSpec
from uadray.tissue import tissue_mask

log = logging.getLogger(__name__)

FILES_PER_TASK = 512
"""Tiles of a set in one read task: about a second of decoding."""

PIXELS = pa.schema([pa.field("pixels", pa.binary(), nullable=False)])


@dataclass(frozen=True)
class TrainingData:
    """What a training reads.

    Attributes:
        dataset: a Ray Dataset of rows `{"pixels": bytes}`.
        n_tiles: tiles in one pass.
        description: fingerprint and counts, for the bundle.
    """

    dataset: Any
    n_tiles: int
    description: dict[str, Any]


@dataclass(frozen=True)
class Survey:
    """A slide's tiles, or why there are none."""

    row: SlideRow
    etag: str
    tiles: pa.Table
    error: str | None


def training_data(uri: str, *, tiles: TileSpec, input_px: int, tiles_per_slide: int | None, label: str) -> TrainingData:
    """The dataset behind `--data`: a slide manifest, or a tile set of which the tiles labelled `label` are taken.

    Slides are surveyed first (metadata only): a broken one is named and left out, before a step is made.

    Raises:
        InputError: no usable slide or tile.
    """
    if tilesets.is_tile_set(uri):
        return _from_tile_set(uri, tiles=tiles, input_px=input_px, label=label)
    return _from_slides(uri, tiles=tiles, input_px=input_px, tiles_per_slide=tiles_per_slide, label=label)


def survey(rows: list[SlideRow], spec: TileSpec) -> list[Survey]:
    """Open every slide on the cluster and lay its grid; order as in `rows`."""
    task = ray.remote(num_cpus=1)(_survey)
    return list(ray.get([task.remote(row, spec) for row in rows]))


def _survey(row: SlideRow, spec: TileSpec) -> Survey:
    try:
        etag = slide_etag(row)
        with (
            cache.local_copy(row.uri, slide_id=row.slide_id) as path,
            open_slide(path, slide_id=row.slide_id, mpp=row.mpp) as slide,
        ):
            return Survey(row, etag, plan_slide(slide, etag=etag, spec=spec).tiles, None)
    except SlideError as error:
        return Survey(row, "", TILES.empty_table(), f"{error.reason}: {error.message}")


def _from_slides(uri: str, *, tiles: TileSpec, input_px: int, tiles_per_slide: int | None, label: str) -> TrainingData:
    rows = [r for r in read_manifest(uri) if r.label in (None, "", label)]
    if not rows:
        raise InputError(f"manifest {uri}: no slide has the label {label!r}; training takes normal slides alone")
    surveys = survey(rows, tiles)
    usable = [s for s in surveys if len(s.tiles)]
    left_out = {s.row.slide_id: s.error or "no tile with enough tissue" for s in surveys if not len(s.tiles)}
    for slide_id, why in left_out.items():
        log.warning("slide %s is left out of the training: %s", slide_id, why)
    if not usable:
        raise InputError(
            f"manifest {uri}: none of {len(rows)} slides can be used; the first: {next(iter(left_out.items()))}"
        )
    counts = [min(len(s.tiles), tiles_per_slide or len(s.tiles)) for s in usable]
    reads = [reading(_slide_crops, s, tiles, input_px, count) for s, count in zip(usable, counts, strict=True)]
    print_of = fingerprint(f"{s.row.slide_id}:{s.etag}" for s in usable)
    seen = sorted(fingerprint([s.row.slide_id]) for s in usable)
    description = {"uri": uri, "fingerprint": print_of, "n_slides": len(usable), "left_out": left_out, "slides": seen}
    return _dataset("slides", reads, sum(counts), input_px, description)


def _from_tile_set(uri: str, *, tiles: TileSpec, input_px: int, label: str) -> TrainingData:
    every = tilesets.list_tiles(uri)
    refs = [r for r in every if r.label == label]
    if not refs and {r.label for r in every} - {None, ""} and len({r.label for r in every}) > 1:
        found = ", ".join(sorted({str(r.label) for r in every})[:8])
        raise InputError(f"tile set {uri}: no tile is labelled {label!r} (found: {found}); set train_label")
    refs = refs or every
    order = np.random.default_rng(0).permutation(len(refs))  # neighbours in a set come from one slide
    shuffled = [refs[i] for i in order]
    parts = [shuffled[i : i + FILES_PER_TASK] for i in range(0, len(shuffled), FILES_PER_TASK)]
    reads = [reading(_tile_crops, uri, part, tiles, input_px) for part in parts]
    print_of = fingerprint(r.tile_id for r in refs)
    return _dataset("tiles", reads, len(refs), input_px, {"uri": uri, "fingerprint": print_of, "label": label})


def _dataset(name: str, reads: list[Read], n_tiles: int, input_px: int, description: dict[str, Any]) -> TrainingData:
    each = max(1, n_tiles // len(reads)) * 3 * input_px**2
    dataset = ray.data.read_datasource(TaskSource(name, reads, bytes_each=each))
    return TrainingData(dataset, n_tiles, description | {"n_tiles": n_tiles})


def _slide_crops(found: Survey, spec: TileSpec, input_px: int, count: int) -> Iterator[pa.Table]:
    rng = np.random.default_rng()
    chosen = found.tiles.take(rng.permutation(len(found.tiles))[:count])
    chosen = chosen.sort_by([("y_level0_px", "ascending"), ("x_level0_px", "ascending")])
    row = found.row
    with (
        metrics.stage("train_read") as meter,
        cache.local_copy(row.uri, slide_id=row.slide_id) as path,
        open_slide(path, slide_id=row.slide_id, mpp=row.mpp) as slide,
    ):
        for chunk in read_chunks(slide, chosen, spec=spec):
            good = [p for p, error in zip(chunk.pixels, chunk.errors, strict=True) if error is None]
            meter.add(tiles=len(good), bytes_=chunk.pixels.nbytes, errors=len(chunk.errors) - len(good))
            rng.shuffle(good)
            yield _table([random_crop(p, input_px, rng) for p in good])


def _tile_crops(uri: str, refs: list[tilesets.TileRef], spec: TileSpec, input_px: int) -> Iterator[pa.Table]:
    rng = np.random.default_rng()
    with metrics.stage("train_read") as meter:
        crops = []
        for _, pixels, error in tilesets.read_tiles(uri, refs):
            fits = pixels is not None and min(pixels.shape[:2]) >= input_px
            if pixels is None or not fits or not enough_tissue(pixels, spec):
                meter.add(errors=int(error is not None))
                continue
            crops.append(random_crop(pixels, input_px, rng))
        meter.add(tiles=len(crops), bytes_=len(crops) * 3 * input_px**2)
        yield _table(crops)


def enough_tissue(pixels: npt.NDArray[np.uint8], spec: TileSpec) -> bool:
    """Whether a lone tile [h, w, 3] at `spec.mpp` has `spec.min_tissue` of tissue, by the mask that slides get."""
    factor = max(1, round(4.0 / spec.mpp))
    small = cv2.resize(pixels, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
    return bool(tissue_mask(np.asarray(small, dtype=np.uint8), spec.mpp * factor).mean() >= spec.min_tissue)


def random_crop(pixels: npt.NDArray[np.uint8], side: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A random square of [h, w, 3], flipped and turned at random: tissue has no up."""
    y, x = (int(rng.integers(n - side + 1)) for n in pixels.shape[:2])
    crop = pixels[y : y + side, x : x + side]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return np.ascontiguousarray(np.rot90(crop, int(rng.integers(4))))


def _table(crops: list[npt.NDArray[np.uint8]]) -> pa.Table:
    return pa.table({"pixels": [crop.tobytes() for crop in crops]}, schema=PIXELS)
