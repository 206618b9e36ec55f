"""A trained detector as a folder: `weights.safetensors`, `bundle.json` and, once calibrated, `calibration.json`.

Opens the same from a folder or from s3://. Self-contained: the frozen backbone is inside, so that a node without
network scores what the training node scored. Nothing in it is a pickle.
"""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from pydantic import Field

from uadray import __version__, storage
from uadray.config import Config, parse_config
from uadray.detector import Detector, build_detector
from uadray.errors import InputError
from uadray.identity import Seen
from uadray.models.build import DetectorConfig, Networks, build_networks
from uadray.tiling import TileSpec
from uadray.training.checkpoint import load_networks, save_networks

BUNDLE_VERSION = 1
"""Of the layout of `bundle.json`; another version is refused, never half-understood."""

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
            (`uadray.identity`). No slide id and no path: bundles are given away.
        metrics: the last ones of the training.
        uadray_version: that wrote it.
        commit: of the checkout that wrote it, if there was one.
        licences: of weights inside that others published.
    """

    version: int
    name: str
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
    storage.delete(storage.join(uri, CALIBRATION))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / WEIGHTS
        save_networks(path, networks)
        data = path.read_bytes()
    bundle = Bundle(version=BUNDLE_VERSION, weights_sha256=hashlib.sha256(data).hexdigest(), **description)
    storage.write_bytes(storage.join(uri, WEIGHTS), data)
    storage.write_bytes(storage.join(uri, DESCRIPTION), bundle.model_dump_json(indent=2).encode())
    return bundle


def read_bundle(uri: str) -> Bundle:
    """Read `bundle.json`.

    Raises:
        InputError: no bundle there, or one of another version.
    """
    where = storage.join(uri, DESCRIPTION)
    if not storage.exists(where):
        raise InputError(
            f"{uri} is no bundle: it has no {DESCRIPTION}; `uadray train CONFIG --data D --out DIR` makes one"
        )
    try:
        values = json.loads(storage.read_bytes(where))
    except ValueError as error:
        raise InputError(f"bundle {uri}: {DESCRIPTION} is not JSON: {error}") from error
    version = values.get("version") if isinstance(values, dict) else None
    if version != BUNDLE_VERSION:
        raise InputError(
            f"bundle {uri} has version {version}, uadray {__version__} reads version {BUNDLE_VERSION}; "
            "train it again, or use the uadray that wrote it"
        )
    return parse_config(Bundle, values, source=f"bundle {uri}")


def load_detector(uri: str, bundle: Bundle | None = None, *, device: str = "cpu") -> Detector:
    """Build the detector of a bundle and fill it with its weights.

    Raises:
        InputError: the weights are damaged or are not those that `bundle.json` describes.
    """
    bundle = bundle or read_bundle(uri)
    data = storage.read_bytes(storage.join(uri, WEIGHTS))
    if hashlib.sha256(data).hexdigest() != bundle.weights_sha256:
        raise InputError(f"bundle {uri}: {WEIGHTS} is not the file that {DESCRIPTION} names (its SHA-256 differs)")
    networks = build_networks(bundle.detector, pretrained=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / WEIGHTS
        path.write_bytes(data)
        load_networks(path, networks)
    return build_detector(bundle.detector, networks, device=device)
