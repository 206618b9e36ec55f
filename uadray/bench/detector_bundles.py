"""Bundles that were trained elsewhere, on a GPU or on other tiles, as rows of `bench detectors`."""

from collections.abc import Sequence
from typing import Any

from uadray.bench.detector_pictures import DetectorScore
from uadray.bench.detector_training import check_side
from uadray.bench.reference_scores import Score
from uadray.detectors.bundle import Bundle, load_detector, read_bundle
from uadray.errors import InputError

UNSAID = ("slides", "salt", "members")
"""Of what a bundle says of its training data: lists, and what only screenings need."""


def named_bundles(given: Sequence[str], *, option: str = "bundle") -> dict[str, str]:
    """URIs by the names of their rows, of NAME=URI each; of generators by `option` "generator".

    >>> named_bundles(["dpa_gpu=/bundles/dpa"])
    {'dpa_gpu': '/bundles/dpa'}

    Raises:
        InputError: one is written otherwise, or a name is given twice.
    """
    pairs = [text.partition("=") for text in given]
    for name, sign, uri in pairs:
        if not (name and sign and uri):
            raise InputError(f"--{option} {name}{sign}{uri}: write NAME=URI, the name of its row and where it lies")
    names = [name for name, _, _ in pairs]
    if len(set(names)) < len(names):
        raise InputError(f"--{option}: a name is given twice: {', '.join(names)}")
    return {name: uri for name, _, uri in pairs}


def loaded(uri: str, *, device: str) -> tuple[Score, dict[str, Any]]:
    """What scores tiles, and what the bundle says of its training.

    Raises:
        InputError: there is no such bundle, or its input is larger than a tile.
    """
    bundle = read_bundle(uri)
    mpp = bundle.tiles.mpp
    check_side(bundle.detector.input_px, mpp=mpp)
    return DetectorScore(load_detector(uri, bundle, device=device), mpp), training_of(bundle)


def training_of(bundle: Bundle) -> dict[str, Any]:
    """Figures of a training that a bundle remembers; crops and minutes are those of newer bundles alone."""
    said = {name: value for name, value in bundle.training_data.items() if name not in UNSAID}
    steps = bundle.metrics.get("step")
    figures = {
        "steps": steps, "steps_configured": steps, "tiles_seen": said.get("crops"),
        "tiles_of_train": said.get("n_tiles"), "input_px": bundle.detector.input_px, "tile_mpp": bundle.tiles.mpp,
    }  # fmt: skip
    about = {"bundle": bundle.id, "bundle_name": bundle.name, "commit": bundle.commit, "training_data": said}
    stain = {"stain_left_out": bundle.tiles.stain.model_dump(mode="json")} if bundle.tiles.stain else {}
    return about | stain | {name: value for name, value in figures.items() if value is not None}
