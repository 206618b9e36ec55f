"""`uadray gallery`: normal tiles of the training, kept in the bundle to be shown beside abnormal ones."""

from typing import Any

import numpy as np

from uadray.commands.progress import progress
from uadray.detectors.bundle import load_detector, read_bundle
from uadray.detectors.gallery import Describer, write_gallery
from uadray.errors import InputError
from uadray.evaluation.real_tiles import crops_of
from uadray.networks.bundle_description import GALLERY
from uadray.reports.pictures import encode_jpeg
from uadray.storage import objects
from uadray.training.dataset import training_tiles
from uadray.training.survey import in_threads

LABEL = "normal"


def run(bundle_uri: str, *, data: str | None, n: int, split: str | None, seed: int, is_removed: bool) -> dict[str, Any]:
    """Draw normal tiles and write them into the bundle; or remove them from it.

    They are drawn at random. Tiles that differ most from each other (the farthest next, Gonzalez 1985) are outliers,
    and less like the normal tiles of other slides (mean likeness .61 with 256 tiles); medoids of clusters are as good
    as random ones (.69 and .68); more tiles are better (.74 with 2,500).

    Args:
        bundle_uri: of the detector.
        data: the tile set or the slide manifest that it was trained on; labels other than `normal` are left out.
        n: tiles to keep.
        split: of the manifest.
        seed: of the choice.
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
        describe, detector, parts = Describer(), load_detector(bundle_uri, bundle), []
        for crops in crops_of(tiles, side, most=n, seed=seed):
            parts.append((crops, describe(crops), detector(crops).score))
            tick(sum(len(part[0]) for part in parts), min(n, tiles.n_tiles), "tiles")
    pixels, descriptors, scores = (np.concatenate(each) for each in zip(*parts, strict=True))
    rows = np.flatnonzero(np.isfinite(scores))
    jpegs = [encode_jpeg(picture) for picture in pixels[rows]]
    uri = write_gallery(bundle_uri, bundle, jpegs, scores[rows].tolist(), descriptors[rows])
    return {"bundle": bundle.id, "gallery": uri, "tiles": len(jpegs), "bytes": sum(map(len, jpegs))}
