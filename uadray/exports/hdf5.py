"""Tile scores as HDF5 in the layout of TRIDENT, which takes the place of both of its files of a slide.

TRIDENT (Zhang et al. 2025, arXiv 2502.06750, github.com/mahmoodlab/TRIDENT) reads coordinates from
`<slide>_patches.h5`: the dataset `coords`, [n, 2] of x and y in level-0 pixels, with attributes that say how patches
are cut; and features from a file with `features` [n, d] and the same `coords`. Here `features` [n, 1] is the score, and
there are

    scores           [n] float64, the tile's score; higher is more abnormal
    normal_share     [n] float64, the share of normal tiles that score less, where the calibration tells it
    size_level0_px   [n, 2] width and height of each tile: they differ by a pixel where the scale is no whole number

TRIDENT cuts a patch of `patch_size * level0_magnification / target_magnification` level-0 pixels, and takes a
magnification for 10 um/px over the pixel size. Both are written so, and are whole numbers only where 10 um over the
pixel size is: rounded to 20 and 40 other pixels would be read. Where the pixel size is not known, they are not there.

LazySlide keeps its own files in Zarr; `wsidata.io.add_tiles` takes `coords` as they are, and `add_features` `features`.
"""

import secrets
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from uadray.exports.exported_slide import ExportedSlide, ExportOptions

FOLDER, SUFFIX, VERSION = "patches", "_patches.h5", 1


def exported(slide: ExportedSlide, options: ExportOptions) -> bytes:
    """The HDF5 file of a slide; a tile without a score has none in it."""
    boxes, scores = slide.scored_boxes()
    arrays: dict[str, npt.NDArray[Any]] = {
        "coords": boxes[:, :2] - slide.origin(options),
        "features": scores[:, None].astype(np.float32),
        "scores": scores,
        "size_level0_px": boxes[:, 2:].astype(np.int32),
    }
    share = slide.normal_share(scores)
    if share is not None:
        arrays["normal_share"] = share
    with h5py.File(
        f"{secrets.token_hex(8)}.h5", "w", driver="core", backing_store=False, libver=("v108", "v110")
    ) as file:
        for name, values in arrays.items():
            compressed = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if len(values) > 64 else {}
            file.create_dataset(name, data=values, track_times=False, **compressed)
        file["coords"].attrs.update(_attributes(slide, boxes))
        file.attrs.update(_facts(slide))
        file.flush()
        return bytes(file.id.get_file_image())


def _attributes(slide: ExportedSlide, boxes: npt.NDArray[np.int64]) -> dict[str, Any]:
    """What TRIDENT's `coords_to_h5` writes beside coordinates; only what is known."""
    side = int(np.median(boxes[:, 2])) if len(boxes) else None
    spec, mpp, size = slide.spec, slide.mpp_level0, slide.size_level0_px
    values = {
        "patch_size": spec.tile_px if spec else None,
        "patch_size_level0": side,
        "level0_magnification": _magnification(mpp),
        "target_magnification": _magnification(spec.mpp if spec else None),
        "overlap": spec.tile_px - spec.stride if spec else None,
        "name": slide.slide_id,
        "savetodir": "",
        "level0_width": size[0] if size else None,
        "level0_height": size[1] if size else None,
        "mpp_level0": mpp,
        "mpp": spec.mpp if spec else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def _magnification(mpp: float | None) -> float | int | None:
    """10 um/px over the pixel size, as TRIDENT has it: 20 of 0.5 um/px."""
    if mpp is None:
        return None
    value = 10 / mpp
    return round(value) if abs(value - round(value)) < 1e-6 else value


def _facts(slide: ExportedSlide) -> dict[str, Any]:
    """Whose scores these are."""
    facts = {name: slide.decision.get(name) for name in ("slide_id", "decision", "score", "p_value", "calibration_id")}
    return {"bundle": slide.name} | {name: value for name, value in facts.items() if value is not None}
