"""A trained classifier as a folder, see `uadray.networks.bundle_folder`; `bundle.json` says `"kind": "classifier"`."""

from typing import Any, Literal

from pydantic import Field

from uadray import __version__
from uadray.classifiers.densenet import Config as ClassifierConfig
from uadray.classifiers.densenet import outline_of
from uadray.config import Config, parse_config
from uadray.networks.bundle_description import BUNDLE_VERSION, bundle_id, read_description, seen_of
from uadray.networks.bundle_folder import opened_weights, write_folder
from uadray.networks.outline import Networks
from uadray.slides.identity import Seen
from uadray.tiles.spec import TileSpec


class ClassifierBundle(Config):
    """`bundle.json` of a classifier.

    Attributes:
        version: of this layout.
        kind: tells it from a detector and a generator.
        name: for people.
        classifier: its architecture and its classes.
        tiles: how the tiles it was trained on were cut.
        weights_sha256: of `weights.safetensors`.
        training_data: what it was trained on, as in `uadray.detectors.bundle.Bundle`; `classes` says of each class the
            number of tiles and their fingerprint.
        metrics: the last ones of the training.
        uadray_version: that wrote it.
        commit: of the checkout that wrote it, if there was one.
        licences: of weights inside that others published.
    """

    version: int
    kind: Literal["classifier"] = "classifier"
    name: str = Field(min_length=1, max_length=80)
    classifier: ClassifierConfig
    tiles: TileSpec
    weights_sha256: str
    training_data: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    uadray_version: str = __version__
    commit: str | None = None
    licences: dict[str, str] = Field(default_factory=dict)

    @property
    def trained_on(self) -> Seen:
        """The slides it was trained on; none are known of a tile set."""
        return seen_of(self.training_data)

    @property
    def id(self) -> str:
        """See `bundle_description.bundle_id`."""
        return bundle_id(self.weights_sha256, self.classifier, self.tiles)


def write_classifier(uri: str, networks: Networks, **description: Any) -> ClassifierBundle:
    """Write weights, then `bundle.json`, and return what it says."""
    return write_folder(
        uri, networks, lambda sha256: ClassifierBundle(version=BUNDLE_VERSION, weights_sha256=sha256, **description)
    )


def read_classifier(uri: str) -> ClassifierBundle:
    """Read `bundle.json`.

    Raises:
        InputError: no bundle there, one of another kind or version, or one that says what no bundle may.
    """
    return parse_config(ClassifierBundle, read_description(uri, kind="classifier"), source=f"bundle {uri}")


def load_networks_of(uri: str, bundle: ClassifierBundle) -> Networks:
    """The trained networks of a classifier by name, on the CPU.

    Raises:
        InputError: the weights are damaged, too large, or not those that `bundle.json` describes.
    """
    with opened_weights(uri, outline_of(bundle.classifier), sha256=bundle.weights_sha256) as networks:
        return dict(networks)
