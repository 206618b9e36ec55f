"""A trained detector as a folder: `weights.safetensors`, `bundle.json` and, once calibrated, `calibration.json`.

Opens the same from a folder or from s3://. Self-contained: the frozen backbone is inside, so that a node without
network scores what the training node scored. Nothing in it is a pickle.
"""

import hashlib
import json
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from uadray import __version__
from uadray.config import Config, parse_config
from uadray.detectors.catalog import DetectorConfig, Networks, outline
from uadray.detectors.detector import STAGES, Detector, Stage, build_detector, network_names
from uadray.errors import InputError
from uadray.slides.identity import Seen
from uadray.storage import objects
from uadray.tiles.spec import TileSpec
from uadray.training.checkpoint import load_networks, save_networks

BUNDLE_VERSION = 1
"""Of the layout of `bundle.json`; another version is refused, never half-understood."""

MAX_DESCRIPTION_BYTES = 64 * 2**20
"""Of `bundle.json`, whose only long part is twenty bytes for each slide that was trained on."""

MAX_HEADER_BYTES = 2**20
"""Of `weights.safetensors`: some hundred names and shapes. What follows is as long as the networks are large."""

WEIGHTS, DESCRIPTION, CALIBRATION = "weights.safetensors", "bundle.json", "calibration.json"


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
        salt, slides = (self.training_data.get(name) for name in ("salt", "slides"))
        marks = frozenset(map(str, slides)) if isinstance(slides, list) else frozenset[str]()
        return Seen(salt if isinstance(salt, str) else "", marks)

    @property
    def id(self) -> str:
        """Twelve hex digits that change with the weights, the architecture or the tiles."""
        parts = self.weights_sha256 + self.detector.model_dump_json() + self.tiles.model_dump_json()
        return hashlib.sha256(parts.encode()).hexdigest()[:12]


def write_bundle(uri: str, networks: Networks, **description: Any) -> Bundle:
    """Write weights, then `bundle.json`: a bundle without its description is none.

    A calibration that lies there belongs to other weights and is removed first.
    """
    objects.delete(objects.join(uri, CALIBRATION))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / WEIGHTS
        save_networks(path, networks)
        data = path.read_bytes()
    bundle = Bundle(version=BUNDLE_VERSION, weights_sha256=hashlib.sha256(data).hexdigest(), **description)
    objects.write_bytes(objects.join(uri, WEIGHTS), data)
    objects.write_bytes(objects.join(uri, DESCRIPTION), bundle.model_dump_json(indent=2).encode())
    return bundle


def read_bundle(uri: str) -> Bundle:
    """Read `bundle.json`.

    Raises:
        InputError: no bundle there, one of another version, or one that says what no bundle may.
    """
    where = objects.join(uri, DESCRIPTION)
    if not objects.exists(where):
        raise InputError(
            f"{uri} is no bundle: it has no {DESCRIPTION}; `uadray train CONFIG --data D --out DIR` makes one"
        )
    try:
        values = json.loads(objects.read_bytes(where, max_bytes=MAX_DESCRIPTION_BYTES))
    except (ValueError, RecursionError) as error:
        raise InputError(f"bundle {uri}: {DESCRIPTION} is not JSON: {error}") from error
    version = values.get("version") if isinstance(values, dict) else None
    if version != BUNDLE_VERSION:
        raise InputError(
            f"bundle {uri} has version {version}, uadray {__version__} reads version {BUNDLE_VERSION}; "
            "train it again, or use the uadray that wrote it"
        )
    if isinstance(values.get("tiles"), dict) and "mask_dir" in values["tiles"]:
        raise InputError(
            f"bundle {uri}: {DESCRIPTION} names a folder of masks, tiles.mask_dir; masks are of one run (--mask-dir), "
            "a bundle that brings some would decide where to look: remove the field"
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
        batch_tiles: see `build_detector`.
        stages: that will be used; the networks of others are not loaded.

    Raises:
        InputError: the weights are damaged, too large, or not those that `bundle.json` describes.
    """
    bundle = bundle or read_bundle(uri)
    networks, names = outline(bundle.detector), network_names(bundle.detector)
    n_bytes = sum(t.numel() * t.element_size() for network in networks.values() for t in network.state_dict().values())
    data = objects.read_bytes(objects.join(uri, WEIGHTS), max_bytes=n_bytes + MAX_HEADER_BYTES)
    if hashlib.sha256(data).hexdigest() != bundle.weights_sha256:
        raise InputError(f"bundle {uri}: {WEIGHTS} is not the file that {DESCRIPTION} names (its SHA-256 differs)")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / WEIGHTS
        path.write_bytes(data)
        del data
        load_networks(path, networks, names=[names[s] for s in stages], source=f"bundle {uri}: {WEIGHTS}")
    return build_detector(bundle.detector, networks, device=device, batch_tiles=batch_tiles, stages=stages)
