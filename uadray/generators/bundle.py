"""A trained generator as a folder, see `uadray.networks.bundle_folder`; `bundle.json` says `"kind": "generator"`."""

from typing import Any, Literal

from pydantic import Field

from uadray import __version__
from uadray.config import Config, parse_config
from uadray.generators.catalog import GeneratorConfig, outline_of
from uadray.networks.bundle_description import BUNDLE_VERSION, bundle_id, read_description, seen_of
from uadray.networks.bundle_folder import opened_weights, write_folder
from uadray.networks.outline import Networks
from uadray.slides.identity import Seen
from uadray.tiles.spec import TileSpec


class GeneratorBundle(Config):
    """`bundle.json` of a generator.

    Attributes:
        version: of this layout.
        kind: tells it from a detector.
        name: for people.
        generator: its architecture.
        tiles: how the tiles it was trained on were cut.
        weights_sha256: of `weights.safetensors`.
        training_data: what it was trained on, as in `uadray.detectors.bundle.Bundle`.
        metrics: the last ones of the training.
        uadray_version: that wrote it.
        commit: of the checkout that wrote it, if there was one.
        licences: of weights inside that others published.
    """

    version: int
    kind: Literal["generator"] = "generator"
    name: str = Field(min_length=1, max_length=80)
    generator: GeneratorConfig
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
        return bundle_id(self.weights_sha256, self.generator, self.tiles)


def write_generator(uri: str, networks: Networks, **description: Any) -> GeneratorBundle:
    """Write weights, then `bundle.json`, and return what it says."""
    return write_folder(
        uri, networks, lambda sha256: GeneratorBundle(version=BUNDLE_VERSION, weights_sha256=sha256, **description)
    )


def read_generator(uri: str) -> GeneratorBundle:
    """Read `bundle.json`.

    Raises:
        InputError: no bundle there, one of a detector, one of another version, or one that says what no bundle may.
    """
    return parse_config(GeneratorBundle, read_description(uri, kind="generator"), source=f"bundle {uri}")


def load_generator(uri: str, bundle: GeneratorBundle | None = None) -> Networks:
    """The trained networks of a generator by name, on the CPU.

    Raises:
        InputError: the weights are damaged, too large, or not those that `bundle.json` describes.
    """
    bundle = bundle or read_generator(uri)
    with opened_weights(uri, outline_of(bundle.generator), sha256=bundle.weights_sha256) as networks:
        return dict(networks)
