"""What a detector's bundle says of itself, read without its networks.

Whoever only asks which bundle it is, and how its tiles are cut, need not wait for torch nor hold it in memory.
"""

from collections.abc import Iterator
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from uadray import __version__
from uadray.config import Config, parse_config
from uadray.errors import InputError
from uadray.networks.bundle_description import DESCRIPTION, bundle_id, read_description, seen_of
from uadray.slides.identity import Seen
from uadray.tiles.spec import TileSpec

ELSEWHERE = {
    "generator": "a generator", "generator_bundle": "a generator", "bundles": "bundles", "autoencoder": "an autoencoder"
}  # fmt: skip
"""Fields of a detector's configuration that say where networks lie, in training alone, and what those are."""


def is_elsewhere(value: Any) -> bool:
    """Whether such a field says where something lies. That of a generator may have its architecture instead."""
    return value is not None and not isinstance(value, dict | BaseModel)


ENCODER_ELSEWHERE = "bundle"
"""The same of its `features`, where they are those of a trained encoder."""


class Architecture(Config):
    """A detector's configuration as it stands in `bundle.json`: only what every detector has is looked at.

    Attributes:
        kind: which detector.
        input_px: side of the tiles' centre that it sees.
    """

    model_config = ConfigDict(extra="allow")

    kind: str
    input_px: int

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_none(cls, values: Any) -> Any:
        """A field within a field that is None does not count in a bundle's id either, see `bundle_id`."""
        return _without_none(values)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(each) for name, each in value.items() if each is not None}
    return [_without_none(each) for each in value] if isinstance(value, list) else value


class BundleDescription(Config):
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
    detector: Architecture
    tiles: TileSpec
    weights_sha256: str
    training_data: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    uadray_version: str = __version__
    commit: str | None = None
    licences: dict[str, str] = Field(default_factory=dict)

    def with_masks(self, mask_dir: str | None) -> Self:
        """The same bundle for a run with edited masks, see `TileSpec.mask_dir`."""
        return self.model_copy(update={"tiles": self.tiles.model_copy(update={"mask_dir": mask_dir})})

    @model_validator(mode="after")
    def _tile_covers_input(self) -> Self:
        if self.detector.input_px > self.tiles.tile_px:
            raise ValueError(
                f"detector.input_px {self.detector.input_px} is larger than tiles.tile_px {self.tiles.tile_px}"
            )
        self.tiles.check_mpp(getattr(self.detector, "mpp", None))
        return self

    @property
    def trained_on(self) -> Seen:
        """The slides it was trained on; none are known of a tile set."""
        return seen_of(self.training_data)

    @property
    def id(self) -> str:
        """See `bundle_description.bundle_id`."""
        return bundle_id(self.weights_sha256, self.detector, self.tiles)


def described_bundle(uri: str) -> BundleDescription:
    """What `bundle.json` says, its detector not looked into.

    Raises:
        InputError: no bundle there, a generator's, one of another version, or one that says what no bundle may.
    """
    return parse_config(BundleDescription, detector_description(uri), source=f"bundle {uri}")


def detector_description(uri: str) -> dict[str, Any]:
    """The fields of a detector's `bundle.json`, not yet validated.

    Raises:
        InputError: no bundle there, a generator's, one of another version, or one that says what no bundle may.
    """
    values = read_description(uri, kind="detector")
    values.pop("kind", None)
    for where, fields in _parts_in(values):
        named = {ENCODER_ELSEWHERE: "an encoder"} if where.endswith(".features") else ELSEWHERE
        for name, what in named.items():
            if is_elsewhere(fields.get(name)):
                raise InputError(
                    f"bundle {uri}: {DESCRIPTION} names {what} elsewhere, {where}.{name}; a bundle has all its "
                    "networks inside: remove the field"
                )
    return values


def _parts_in(values: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The detectors, see below, and the features of each that takes any."""
    for where, detector in _detectors_in(values):
        yield where, detector
        if isinstance(features := detector.get("features"), dict):
            yield f"{where}.features", features


def _detectors_in(values: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The detector's configuration and those of its members, if it combines several, with their places."""
    detector = values.get("detector")
    if isinstance(detector, dict):
        yield "detector", detector
        members = detector.get("members")
        for number, member in enumerate(members if isinstance(members, list) else ()):
            if isinstance(member, dict):
                yield f"detector.members.{number}", member
