"""The tiles and mosaics that `bench detectors` trains and judges on, decoded once for all detectors.

What is used for what:

    train/normal   all but the last `held_normals` by name: training
                   the last `held_normals`: tile thresholds, and choosing
    train/tumor    the last `known_tumours` by name: choosing; all of them: the supervised reference alone
    valid          reported, and never chosen on; of other slides than train
    mosaics        `normal_calib` calibrates; `test` and `small` are called, both made of valid tiles
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

import uadray
from uadray.bench.stain_shift import shifted
from uadray.errors import InputError, WorkError
from uadray.schemas import TILE_SCORES, TILES
from uadray.slides.identity import slide_etag
from uadray.slides.manifest import SlideRow, read_manifest
from uadray.slides.opening import open_slide
from uadray.tiles.chunks import normalizer_of, read_chunk
from uadray.tiles.images import Pixels
from uadray.tiles.plan import plan_slide
from uadray.tiles.spec import TileSpec
from uadray.tilesets import containers
from uadray.training.lone_tiles import enough_tissue

Bools = npt.NDArray[np.bool_]

SPEC = TileSpec(mpp=0.972, tile_px=96)
"""The tiles of PatchCamelyon. Slides are cut into the same, whatever a detector's own tiles are."""

CALIBRATION, CALLED = "normal_calib", ("test", "small")
"""Folders of mosaics."""


@dataclass(frozen=True)
class Sizes:
    """How many tiles of train are used for what, see the module; the supervised reference takes `reference_normals`."""

    held_normals: int = 1000
    known_tumours: int = 200
    reference_normals: int = 4000


@dataclass(frozen=True)
class CutSlide:
    """A slide and its tiles.

    Attributes:
        row: of the manifest.
        table: rows of `TILE_SCORES` without a score, those with a flag or an error among them.
        good: [n], which rows have neither.
        pixels: RGB [n good, 96, 96, 3].
    """

    row: SlideRow
    table: pa.Table
    good: Bools
    pixels: Pixels


@dataclass(frozen=True)
class DetectorData:
    """All that is trained and judged on; tiles are RGB [n, 96, 96, 3].

    Attributes:
        normals: trained on.
        held_normals: of train, not trained on.
        tumours: of train, for the supervised reference.
        known_tumours: those of them that may be chosen with.
        valid: reported on.
        anomalous: [n valid].
        has_tissue: [n valid], at least half of the tile.
        is_shifted: [n valid], every second tile.
        shifted: copies of those tiles in other stains.
        slides: by folder of mosaics; none where tiles alone are judged.
    """

    normals: Pixels
    held_normals: Pixels
    tumours: Pixels
    known_tumours: Pixels
    valid: Pixels
    anomalous: Bools
    has_tissue: Bools
    is_shifted: Bools
    shifted: dict[str, Pixels]
    slides: dict[str, list[CutSlide]]


def data_folder(*, mosaics: bool = True) -> Path:
    """`$UADRAY_DATA`, or `../shared/data` beside the checkout; without `mosaics` tiles are enough.

    Raises:
        InputError: the tiles or the mosaics are not there.
    """
    given = os.environ.get("UADRAY_DATA")
    folder = Path(given) if given else Path(uadray.__file__).resolve().parents[2] / "shared" / "data"
    folders = (CALIBRATION, *CALLED) if mosaics else ()
    wanted = ["pcam/train.zip", "pcam/valid.zip", *(f"mosaics/{name}/manifest.csv" for name in folders)]
    missing = [name for name in wanted if not (folder / name).exists()]
    if missing:
        raise InputError(f"bench detectors needs {missing[0]} in {folder}; set UADRAY_DATA to the folder that has it")
    return folder


def read_data(folder: Path, sizes: Sizes, *, mosaics: bool = True) -> DetectorData:
    """Decode everything; some 12,500 + 2,900 tiles and 86 mosaics of the development data take 1.1 GB.

    Args:
        folder: see `data_folder`.
        sizes: how many tiles of train are used for what.
        mosaics: cut them too.

    Raises:
        InputError: the sets are smaller than `sizes` asks for.
        WorkError: a tile cannot be read.
    """
    train, valid = (str(folder / "pcam" / name) for name in ("train.zip", "valid.zip"))
    normals, tumours = read_label(train, "normal"), read_label(train, "tumor")
    if len(normals) <= sizes.held_normals or len(tumours) < sizes.known_tumours:
        raise InputError(
            f"{train}: {len(normals)} normal tiles and {len(tumours)} of tumour; more than {sizes.held_normals} and at "
            f"least {sizes.known_tumours} are needed"
        )
    of_valid = [read_label(valid, label) for label in ("normal", "tumor")]
    tiles = np.concatenate(of_valid)
    is_shifted = np.arange(len(tiles)) % 2 == 0
    return DetectorData(
        normals=normals[: -sizes.held_normals],
        held_normals=normals[-sizes.held_normals :],
        tumours=tumours,
        known_tumours=tumours[-sizes.known_tumours :],
        valid=tiles,
        anomalous=np.repeat([False, True], [len(part) for part in of_valid]),
        has_tissue=np.array([enough_tissue(tile, SPEC) for tile in tiles]),
        is_shifted=is_shifted,
        shifted=shifted(tiles[is_shifted]),
        slides={name: cut_slides(folder / "mosaics" / name) for name in (CALIBRATION, *CALLED) if mosaics},
    )


def thinned(data: DetectorData, every: int, *, slides: bool = True) -> DetectorData:
    """Every so-many-th of the tiles that are scored, the first one among them; slides are kept whole, or left out."""
    kept = np.arange(len(data.valid)) % every == 0
    return replace(
        data, held_normals=data.held_normals[::every], known_tumours=data.known_tumours[::every],
        valid=data.valid[kept], anomalous=data.anomalous[kept], has_tissue=data.has_tissue[kept],
        is_shifted=data.is_shifted[kept],
        shifted={name: tiles[kept[data.is_shifted]] for name, tiles in data.shifted.items()},
        slides=data.slides if slides else {},
    )  # fmt: skip


def read_label(uri: str, label: str) -> Pixels:
    """The tiles of a label, by name: RGB [n, 96, 96, 3].

    Raises:
        InputError: there is none, or one has another size.
        WorkError: one cannot be read.
    """
    images = []
    for ref, image, error in containers.read_tiles(uri, containers.list_tiles(uri, label=label)):
        if image is None:
            raise WorkError(f"{uri}: {error}")
        if image.shape[:2] != (SPEC.tile_px, SPEC.tile_px):
            raise InputError(
                f"{uri}: {ref.tile_id} has {image.shape[1]} x {image.shape[0]} px, not {SPEC.tile_px} a side"
            )
        images.append(image)
    return np.stack(images)


def cut_slides(folder: Path, spec: TileSpec = SPEC) -> list[CutSlide]:
    """All slides of a folder's manifest, cut as a screening cuts them."""
    return [cut_slide(row, spec) for row in read_manifest(str(folder / "manifest.csv"))]


def cut_slide(row: SlideRow, spec: TileSpec = SPEC) -> CutSlide:
    """The tiles of a slide with enough tissue; those that are flagged or cannot be read have no pixels.

    Raises:
        SlideError: the slide cannot be read, or its colours cannot be normalised where `spec` asks for it.
    """
    etag = slide_etag(row)
    with open_slide(row.uri, slide_id=row.slide_id, mpp=row.mpp, etag=etag) as slide:
        plan = plan_slide(slide, etag=etag, spec=spec)
        chunk = read_chunk(slide, plan.tiles, spec=spec, normalise=normalizer_of(plan.stain, spec))
    why = [error or flag for error, flag in zip(chunk.errors, chunk.flags, strict=True)]
    good = np.array([not each for each in why], bool)
    read = _unscored(chunk.tiles, chunk.flags, why)
    flagged = _unscored(plan.flagged, list(plan.flags), list(plan.flags))
    return CutSlide(
        row, pa.concat_tables([read, flagged]), np.concatenate([good, np.zeros(len(flagged), bool)]), chunk.pixels[good]
    )


def _unscored(tiles: pa.Table, flags: list[str | None], errors: list[str | None]) -> pa.Table:
    """Rows of `TILE_SCORES` of tiles of schema `TILES`, all without a score."""
    columns = {field.name: pa.nulls(len(tiles), field.type) for field in TILE_SCORES}
    columns |= {name: tiles[name] for name in TILES.names}
    columns |= {"flag": pa.array(flags, pa.string()), "error": pa.array(errors, pa.string())}
    return pa.table(columns, schema=TILE_SCORES)
