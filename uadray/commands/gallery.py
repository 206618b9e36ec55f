"""`uadray gallery`: normal tiles of the training, kept in the bundle to be shown beside abnormal ones."""

from typing import Any

import numpy as np

from uadray.commands.progress import progress
from uadray.detectors.bundle import load_detector, read_bundle
from uadray.detectors.gallery import GALLERY, Describer, varied, write_gallery
from uadray.errors import InputError
from uadray.evaluation.real_tiles import crops_of
from uadray.reports.pictures import encode_jpeg
from uadray.storage import objects
from uadray.training.dataset import training_tiles
from uadray.training.survey import in_threads

LOOKED_AT = 16
"""Tiles that are looked at for each that is kept."""

LABEL = "normal"


def run(bundle_uri: str, *, data: str | None, n: int, split: str | None, seed: int, is_removed: bool) -> dict[str, Any]:
    """Choose normal tiles that differ from each other and write them into the bundle; or remove them from it.

    Args:
        bundle_uri: of the detector.
        data: the tile set or the slide manifest that it was trained on; labels other than `normal` are left out.
        n: tiles to keep.
        split: of the manifest.
        seed: of which tiles are looked at.
        is_removed: only remove the gallery that is there.

    Raises:
        InputError: no detector there, or no tiles.
    """
    bundle = read_bundle(bundle_uri)
    if is_removed:
        objects.delete(objects.join(bundle_uri, GALLERY))
        return {"bundle": bundle.id, "gallery": None, "tiles": 0}
    if data is None:
        raise InputError("--data: name the tile set or slide manifest that the bundle was trained on")
    side = bundle.detector.input_px
    with progress("gallery") as tick:
        tiles = training_tiles(
            data, tiles=bundle.tiles, input_px=side, tiles_per_slide=None, label=LABEL, seed=seed,
            survey_each=in_threads, split=split,
        )  # fmt: skip
        most, describe, looked_at, described = n * LOOKED_AT, Describer(), [], []
        for crops in crops_of(tiles, side, most=most, seed=seed):
            looked_at.append(crops)
            described.append(describe(crops))
            tick(sum(map(len, looked_at)), min(most, tiles.n_tiles), "tiles")
    pixels, descriptors = np.concatenate(looked_at), np.concatenate(described)
    chosen = varied(descriptors, n)
    scores = load_detector(bundle_uri, bundle)(pixels[chosen]).score
    kept = np.isfinite(scores)
    rows = [row for row, is_kept in zip(chosen, kept, strict=True) if is_kept]
    jpegs = [encode_jpeg(pixels[row]) for row in rows]
    uri = write_gallery(bundle_uri, bundle, jpegs, scores[kept].tolist(), descriptors[rows])
    return {
        "bundle": bundle.id,
        "gallery": uri,
        "tiles": len(rows),
        "looked_at": len(pixels),
        "bytes": sum(map(len, jpegs)),
    }
