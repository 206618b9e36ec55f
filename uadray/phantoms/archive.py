"""An archive of phantoms: slides, outlines of their lesions and a manifest, for `uadray demo` and the tests."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from uadray.phantoms.film import STAINS
from uadray.phantoms.layout import PhantomSpec, Polygon
from uadray.phantoms.pyramid import write_pyramid
from uadray.phantoms.tissue import paint


def write_archive(
    folder: Path,
    *,
    n_slides: int,
    n_lesion: int,
    seed: int,
    size_px: int = 2048,
    mpp: float = 0.5,
    prefix: str = "phantom",
) -> Path:
    """Paint an archive: slides `<prefix>_000.tif` with their outlines `<prefix>_000.geojson`, and `manifest.csv`.

    The last `n_lesion` slides have lesions. Stains alternate, so that they do not tell which slides have lesions.

    Args:
        folder: made if missing; files of the same names are replaced.
        n_slides: number of slides.
        n_lesion: how many of these have lesions.
        seed: another seed gives other slides.
        size_px: side of a slide at level 0.
        mpp: micrometres per pixel at level 0.
        prefix: of all slide ids.

    Returns:
        The path of the manifest: slide_id, uri (relative to it), mpp, label (`normal` or `lesion`), stain (`0` or `1`).

    Raises:
        ValueError: more slides with lesions than slides.
    """
    if not 0 <= n_lesion <= n_slides:
        raise ValueError(f"expected 0 <= n_lesion <= n_slides, got {n_lesion} of {n_slides}")
    folder.mkdir(parents=True, exist_ok=True)
    seeds = np.random.SeedSequence(seed).generate_state(n_slides, np.uint64).tolist()
    rows = []
    for index in range(n_slides):
        lesion = index >= n_slides - n_lesion
        spec = PhantomSpec(size_px, size_px, mpp, lesion=lesion, stain=index % len(STAINS), seed=seeds[index])
        slide_id = f"{prefix}_{index:03d}"
        image, outlines = paint(spec)
        write_pyramid(folder / f"{slide_id}.tif", image, mpp=mpp)
        (folder / f"{slide_id}.geojson").write_text(json.dumps(_geojson(outlines)) + "\n")
        rows.append((slide_id, f"{slide_id}.tif", mpp, "lesion" if lesion else "normal", spec.stain))
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("slide_id", "uri", "mpp", "label", "stain"), *rows])
    return manifest


def _geojson(outlines: Sequence[Polygon]) -> dict[str, object]:
    """Outlines as QuPath reads them: closed rings in level-0 pixels."""
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[*outline.tolist(), outline[0].tolist()]]},
            "properties": {"objectType": "annotation", "classification": {"name": "Lesion"}},
        }
        for outline in outlines
    ]
    return {"type": "FeatureCollection", "features": features}
