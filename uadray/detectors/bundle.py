"""A trained detector as a folder: `weights.safetensors`, `bundle.json` and, once calibrated, `calibration.json`.

Self-contained: the frozen backbone is inside, so that a node without network scores what the training node scored. The
folder itself, and what is refused in it, is in `uadray.networks.bundle_folder`.
"""

from collections.abc import Collection
from typing import Any

from pydantic import Field, model_validator

from uadray import __version__
from uadray.config import Config, parse_config
from uadray.detectors.catalog import DetectorConfig, build_detector, outline_of
from uadray.detectors.detector import STAGES, Detector, Stage
from uadray.errors import InputError
from uadray.networks.bundle_folder import (
    BUNDLE_VERSION,
    CALIBRATION,
    DESCRIPTION,
    WEIGHTS,
    bundle_id,
    opened_weights,
    read_description,
    seen_of,
    write_folder,
)
from uadray.networks.outline import Networks
from uadray.slides.identity import Seen
from uadray.tiles.spec import TileSpec

__all__ = ["CALIBRATION", "DESCRIPTION", "WEIGHTS", "Bundle", "load_detector", "read_bundle", "write_bundle"]


class Bundle(Config):
    """`bundle.json`.

    Attributes:
        version: of this layout.
        name: for people.
        detector: its architecture.
        tiles: how the tiles it was trained on were cut; it scores no others.
        weights_sha256: of `weights.safetensors`; also the bundle's identity.
        training_data: fingerprint and counts of what it was trained on; of slides, `salt` and `slides`, their marks
            (`uadray.slides.identity`). No slide id and no path: bundles are given away.
        metrics: the last ones of the training.
        uadray_version: that wrote it.
        commit: of the checkout that wrote it, if there was one.
        licences: of weights inside that others published.
    """

    version: int
    name: str = Field(min_length=1, max_length=80)
    detector: DetectorConfig
    tiles: TileSpec
    weights_sha256: str
    training_data: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    uadray_version: str = __version__
    commit: str | None = None
    licences: dict[str, str] = Field(default_factory=dict)

    def with_masks(self, mask_dir: str | None) -> "Bundle":
        """The same bundle for a run with edited masks, see `TileSpec.mask_dir`."""
        return self.model_copy(update={"tiles": self.tiles.model_copy(update={"mask_dir": mask_dir})})

    @model_validator(mode="after")
    def _tile_covers_input(self) -> "Bundle":
        if self.detector.input_px > self.tiles.tile_px:
            raise ValueError(
                f"detector.input_px {self.detector.input_px} is larger than tiles.tile_px {self.tiles.tile_px}"
            )
        return self

    @property
    def trained_on(self) -> Seen:
        """The slides it was trained on; none are known of a tile set."""
        return seen_of(self.training_data)

    @property
    def id(self) -> str:
        """See `bundle_folder.bundle_id`."""
        return bundle_id(self.weights_sha256, self.detector, self.tiles)


def write_bundle(uri: str, networks: Networks, *, detector: DetectorConfig, **description: Any) -> Bundle:
    """Write weights, then `bundle.json`, and return what it says.

    Where a generator lay that the detector was trained with is not written: its networks are inside.
    """
    if getattr(detector, "generator", None) is not None:
        detector = detector.model_copy(update={"generator": None})
    return write_folder(
        uri, networks,
        lambda sha256: Bundle(version=BUNDLE_VERSION, weights_sha256=sha256, detector=detector, **description),
    )  # fmt: skip


def read_bundle(uri: str) -> Bundle:
    """Read `bundle.json`.

    Raises:
        InputError: no bundle there, a generator's, one of another version, or one that says what no bundle may.
    """
    values = read_description(uri, kind="detector")
    values.pop("kind", None)
    detector = values.get("detector")
    if isinstance(detector, dict) and detector.get("generator") is not None:
        raise InputError(
            f"bundle {uri}: {DESCRIPTION} names a generator elsewhere, detector.generator; a bundle has all its "
            "networks inside: remove the field"
        )
    return parse_config(Bundle, values, source=f"bundle {uri}")


def load_detector(
    uri: str, bundle: Bundle | None = None, *, device: str = "cpu", batch_tiles: int | None = None,
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
    bundle = bundle or read_bundle(uri)
    with opened_weights(uri, outline_of(bundle.detector), sha256=bundle.weights_sha256) as networks:
        return build_detector(bundle.detector, networks, device=device, batch_tiles=batch_tiles, stages=stages)
