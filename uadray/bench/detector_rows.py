"""What `bench detectors` compares: detectors of the catalog, mappings over generators, bundles, trivial scores.

And a supervised reference.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError

import uadray
from uadray.bench.detector_bundles import loaded
from uadray.bench.detector_data import SPEC, DetectorData, Sizes
from uadray.bench.detector_pictures import DetectorScore
from uadray.bench.detector_training import trained
from uadray.bench.reference_scores import TRIVIAL, Score, supervised
from uadray.config import load_config
from uadray.detectors.catalog import SingleConfig
from uadray.detectors.description import described_bundle
from uadray.errors import InputError
from uadray.training.config import TrainConfig

Group = Literal["detector", "mapping", "bundle", "trivial score", "supervised"]

Made = tuple[Score, dict[str, Any]]
"""What scores tiles, and the figures of its training."""


@dataclass(frozen=True)
class Row:
    """Something that scores tiles.

    Attributes:
        name: of the row.
        group: what it is.
        config: how it is trained; None for what has no configuration.
        source: where the configuration comes from, or the URI of a bundle.
        identity: of a bundle that was trained elsewhere, or of a mapping and its generator; of others their
            configuration is.
        about: what a mapping over a generator says of itself beside its training.
    """

    name: str
    group: Group
    config: TrainConfig | None = None
    source: str = ""
    identity: str = ""
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def is_seeded(self) -> bool:
        """Whether another seed gives other scores."""
        return self.group in ("detector", "mapping", "supervised")

    @property
    def has_budget(self) -> bool:
        """Whether it is trained here, within the budget of minutes."""
        return self.group in ("detector", "mapping")


def config_folder() -> Path:
    """`configs/train` of the checkout; an installed package has none, and detectors have their defaults."""
    return Path(uadray.__file__).resolve().parents[1] / "configs" / "train"


def rows(folder: Path, bundles: Mapping[str, str] | None = None) -> tuple[list[Row], dict[str, str]]:
    """All rows: one a configuration file, named as the file is, one a kind without a file; and by kind why it has none.

    Args:
        folder: of the configurations.
        bundles: URIs of trained bundles by the names of their rows.

    Raises:
        InputError: two rows have one name, or a bundle cannot be read.
    """
    found: list[Row] = []
    left_out: dict[str, str] = {}
    known = dict(kinds())
    for path in sorted(folder.glob("*.yaml")):
        config = load_config(TrainConfig, path)
        if config.detector is not None and config.detector.kind not in known:
            left_out[config.detector.kind] = f"configs/train/{path.name} puts trained bundles together"
        elif config.detector is not None:
            found.append(Row(path.stem, "detector", config, f"configs/train/{path.name}"))
    for kind, model in known.items():
        if not any(row.config and row.config.detector and row.config.detector.kind == kind for row in found):
            try:
                found.append(Row(kind, "detector", by_default(kind, model), "the defaults of its configuration"))
            except ValidationError as error:
                left_out[kind] = f"no file in configs/train, and {_first(error)}"
    for name, uri in (bundles or {}).items():
        found.append(Row(name, "bundle", None, uri, described_bundle(uri).id))
    found += [Row(name, "trivial score") for name in TRIVIAL]
    return named_once([*found, Row("supervised", "supervised")]), left_out


def named_once(found: list[Row]) -> list[Row]:
    """The rows.

    Raises:
        InputError: two have one name.
    """
    names = [row.name for row in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"bench detectors: {', '.join(twice)} would name two rows; rename a file or a --bundle")
    return found


def kinds() -> Iterator[tuple[str, Any]]:
    """The kinds of the detectors' catalog that are trained, each with its configuration."""
    union = get_args(SingleConfig)[0]
    for model in get_args(union) or (union,):
        for kind in get_args(model.model_fields["kind"].annotation):
            yield kind, model


def by_default(kind: str, model: Any) -> TrainConfig:
    """A training of the detector as its configuration is by default."""
    detector = model(kind=kind)
    return TrainConfig(name=kind, detector=detector, tiles=SPEC)


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"its defaults do not do: {'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def maker(row: Row, data: DetectorData, *, seed: int, minutes: float, device: str, sizes: Sizes) -> Callable[[], Made]:
    """What trains a row; nothing is done before it is called."""

    def make() -> Made:
        if row.config is not None:
            config = row.config.model_copy(update={"seed": seed})
            done = trained(config, data.normals, minutes=minutes, device=device)
            return DetectorScore(done.detector, done.config.tiles.mpp), done.figures | row.about
        if row.group == "bundle":
            return loaded(row.source, device=device)
        if row.group == "trivial score":
            return TRIVIAL[row.name], {}
        normals = data.normals[:: max(1, len(data.normals) // sizes.reference_normals)][: sizes.reference_normals]
        return supervised(normals, data.tumours, seed=seed)

    return make
