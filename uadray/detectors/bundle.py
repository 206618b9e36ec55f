"""A trained detector as a folder: `weights.safetensors`, `bundle.json` and, once calibrated, `calibration.json`.

Self-contained: the frozen backbone is inside, so that a node without network scores what the training node scored. The
folder itself, and what is refused in it, is in `uadray.networks.bundle_folder`.
"""

from collections.abc import Collection
from typing import Any

from uadray.config import parse_config
from uadray.detectors.building import DetectorConfig, build_detector, outline_of
from uadray.detectors.description import ELSEWHERE, BundleDescription, detector_description, is_elsewhere
from uadray.detectors.detector import STAGES, Detector, Stage
from uadray.detectors.features.frozen import EncoderConfig
from uadray.networks.bundle_description import BUNDLE_VERSION, CALIBRATION, DESCRIPTION, WEIGHTS
from uadray.networks.bundle_folder import opened_weights, write_folder
from uadray.networks.outline import Networks

__all__ = ["CALIBRATION", "DESCRIPTION", "WEIGHTS", "Bundle", "load_detector", "read_bundle", "write_bundle"]


class Bundle(BundleDescription):
    """`bundle.json` with its detector's configuration, which can be built; fields as of `BundleDescription`."""

    detector: DetectorConfig  # type: ignore[assignment]  # has `kind` and `input_px` as every `Architecture`


def write_bundle(uri: str, networks: Networks, *, detector: DetectorConfig, **description: Any) -> Bundle:
    """Write weights, then `bundle.json`, and return what it says.

    Where a generator or an encoder lay that the detector was trained with is not written, nor where the bundles lay
    that it combines: their networks are inside.
    """
    elsewhere: dict[str, Any] = {name: None for name in ELSEWHERE if is_elsewhere(getattr(detector, name, None))}
    if isinstance(features := getattr(detector, "features", None), EncoderConfig):
        elsewhere["features"] = features.model_copy(update={"bundle": None})
    detector = detector.model_copy(update=elsewhere) if elsewhere else detector
    return write_folder(
        uri, networks,
        lambda sha256: Bundle(version=BUNDLE_VERSION, weights_sha256=sha256, detector=detector, **description),
    )  # fmt: skip


def read_bundle(uri: str) -> Bundle:
    """Read `bundle.json`.

    Raises:
        InputError: no bundle there, a generator's, one of another version, or one that says what no bundle may.
    """
    return parse_config(Bundle, detector_description(uri), source=f"bundle {uri}")


def load_detector(
    uri: str, bundle: BundleDescription | None = None, *, device: str = "cpu", batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Build the detector of a bundle and fill it with its weights.

    Args:
        uri: of the bundle.
        bundle: its description; read where it is not given.
        device: "cpu" or "cuda".
        batch_tiles: tiles in one forward pass; None: see `uadray.detectors.detector.default_batch`.
        stages: that will be used; the networks of others are not loaded.

    Raises:
        InputError: the weights are damaged, too large, or not those that `bundle.json` describes.
    """
    if bundle is None:
        bundle = read_bundle(uri)
    elif not isinstance(bundle, Bundle):
        bundle = parse_config(Bundle, bundle.model_dump(), source=f"bundle {uri}")
    with opened_weights(uri, outline_of(bundle.detector), sha256=bundle.weights_sha256) as networks:
        return build_detector(bundle.detector, networks, device=device, batch_tiles=batch_tiles, stages=stages)
