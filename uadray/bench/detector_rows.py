"""What `bench detectors` compares: every detector of the catalog, two trivial scores, a supervised reference."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError

import uadray
from uadray.bench.detector_data import SPEC, DetectorData, Sizes
from uadray.bench.detector_training import trained
from uadray.bench.reference_scores import Score, mean_saturation, minus_mean_green, supervised
from uadray.config import load_config
from uadray.detectors.catalog import SingleConfig
from uadray.training.config import TrainConfig

Group = Literal["detector", "trivial score", "supervised"]

Made = tuple[Score, dict[str, Any]]
"""What scores tiles, and the figures of its training."""

TRIVIAL: dict[str, Score] = {"mean_saturation": mean_saturation, "minus_mean_green": minus_mean_green}


@dataclass(frozen=True)
class Row:
    """Something that scores tiles.

    Attributes:
        name: of the row.
        group: what it is.
        config: how it is trained; None for what has no configuration.
        source: where the configuration comes from.
    """

    name: str
    group: Group
    config: TrainConfig | None = None
    source: str = ""

    @property
    def is_seeded(self) -> bool:
        """Whether another seed gives other scores."""
        return self.group != "trivial score"


def config_folder() -> Path:
    """`configs/train` of the checkout; an installed package has none, and detectors have their defaults."""
    return Path(uadray.__file__).resolve().parents[1] / "configs" / "train"


def rows(folder: Path) -> tuple[list[Row], dict[str, str]]:
    """All rows: for each kind of detector a row a configuration file; and by kind why one has none.

    A kind with one file, or without, gives its name to the row; of several files each gives its own.
    """
    of_files: dict[str, list[tuple[str, TrainConfig]]] = {}
    found: list[Row] = []
    left_out: dict[str, str] = {}
    for path in sorted(folder.glob("*.yaml")):
        config = load_config(TrainConfig, path)
        if config.detector is not None and config.detector.kind not in dict(kinds()):
            left_out[config.detector.kind] = f"configs/train/{path.name} puts trained bundles together"
        elif config.detector is not None:
            of_files.setdefault(config.detector.kind, []).append((path.stem, config))
    for kind, model in kinds():
        files = of_files.get(kind, [])
        for stem, config in files:
            name = kind if len(files) == 1 else stem
            found.append(Row(name, "detector", config, f"configs/train/{stem}.yaml"))
        if not files:
            try:
                found.append(Row(kind, "detector", by_default(kind, model), "the defaults of its configuration"))
            except ValidationError as error:
                left_out[kind] = f"no file in configs/train, and {_first(error)}"
    found += [Row(name, "trivial score") for name in TRIVIAL]
    return [*found, Row("supervised", "supervised")], left_out


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
            return done.score, done.figures
        if row.group == "trivial score":
            return TRIVIAL[row.name], {}
        normals = data.normals[:: max(1, len(data.normals) // sizes.reference_normals)][: sizes.reference_normals]
        return supervised(normals, data.tumours, seed=seed)

    return make
