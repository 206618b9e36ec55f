"""The configuration of `uadray tune`: a training, and what of it is searched.

A parameter of the space is named like a field of the training (`detector.latent_channels`), and has choices, a list, or
a range: `{low: 4, high: 64, log: true}`. What has to change together is a parameter of any other name whose choices are
fields with their values:

    magnification:
      - {tiles.mpp: 0.972, detector.input_px: 64}
      - {tiles.mpp: 1.944, detector.input_px: 32}

With `tiles.mpp` the size of a tile in pixels follows, so that it shows the same tissue; so do `detector.mpp`, and
`detector.input_px` where it is that of the whole tile.
"""

import difflib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, StringConstraints, model_validator

from uadray.config import Config, parse_config
from uadray.errors import InputError
from uadray.training.config import TrainConfig

MOST_TRIALS = 1000
"""Trials of a search, and points of a grid."""

TUNED = ("epochs", "steps_per_epoch", "batch_size", "stain_augment", "tiles.mpp")
"""Fields that may be searched beside those of the detector: others belong to the data, or to the machine."""

Assignment = dict[str, Any]
"""By the name of a parameter, the value that a trial gives it."""

Number = Annotated[float, Field(allow_inf_nan=False)]


class Range(Config):
    """Numbers between two, both of them included; whole ones where both are.

    Attributes:
        low: the least.
        high: the highest.
        log: searched by the logarithm.
        step: between values; a grid needs it, or choices.
    """

    low: int | Number
    high: int | Number
    log: bool = False
    step: int | Number | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _in_order(self) -> "Range":
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log takes a low above 0, and no step")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether all its values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int) and isinstance(self.step or 1, int)


Choices = Annotated[list[Any], Field(min_length=1, max_length=64)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=80)]


class TuneConfig(Config):
    """One search of `uadray tune`.

    Attributes:
        train: the training; what is not searched stays as it is here.
        space: by name, the parameters that are searched.
        folds: of the cross-validation: each is judged on once, and trained on in all other turns.
        normals: normal tiles of the data that are used, drawn at random; they are held in memory.
        judged_normals: of a fold at the most, drawn at random.
        start_trials: random trials before Optuna learns from those that are done.
    """

    train: TrainConfig
    space: dict[Name, Range | Choices] = Field(min_length=1, max_length=16)
    folds: int = Field(default=3, ge=2, le=10)
    normals: int = Field(default=6000, ge=6, le=500_000)
    judged_normals: int = Field(default=1000, ge=2, le=100_000)
    start_trials: int = Field(default=8, ge=1, le=MOST_TRIALS)

    @model_validator(mode="after")
    def _one_worker(self) -> "TuneConfig":
        if self.train.detector is None:
            raise ValueError("train.detector is missing; generators are not tuned")
        if self.train.workers > 1 or self.train.tiles.stain is not None:
            raise ValueError(
                "a trial trains in one process on single tiles: leave out train.workers, train.tiles.stain"
            )
        return self


def check_space(config: TuneConfig) -> None:
    """Refuse parameters that are no fields of the training, or values that it does not take, each tried by itself.

    Raises:
        InputError: naming the parameter.
    """
    for name, values in config.space.items():
        tried = [values.low, values.high] if isinstance(values, Range) else values
        for value in tried:
            for path in _fields_of(config, name, value):
                _check_field(config, path)
            configured(config, {name: value})


def configured(config: TuneConfig, assignment: Mapping[str, Any]) -> TrainConfig:
    """The training of a trial.

    Raises:
        InputError: the values do not go together.
    """
    values = config.train.model_dump(mode="json")
    set_fields: dict[str, Any] = {}
    for name, value in assignment.items():
        set_fields |= _fields_of(config, name, value)
    if "tiles.mpp" in set_fields:
        set_fields = _with_pixels(config, set_fields)
    for path, value in set_fields.items():
        *parents, last = path.split(".")
        node = values
        for parent in parents:
            node = node[parent]
        node[last] = value
    try:
        return parse_config(TrainConfig, values, source=f"space: {told(assignment)}")
    except InputError as error:
        raise InputError(str(error).partition(" (got {")[0]) from error  # not the whole training once more


def _fields_of(config: TuneConfig, name: str, value: Any) -> dict[str, Any]:
    """The fields that a parameter sets.

    Raises:
        InputError: it is neither a field nor a mapping of fields.
    """
    if "." in name or name in type(config.train).model_fields:
        return {name: value}
    if not isinstance(value, dict) or not value or not all(isinstance(path, str) for path in value):
        raise InputError(
            f"space: {name} is no field of the training; then each choice is a mapping of fields to values"
        )
    return value


def _check_field(config: TuneConfig, path: str) -> None:
    """Refuse a field that is not there, or that is not for a search."""
    node: Any = config.train.model_dump(mode="json")
    for name in path.split("."):
        if not isinstance(node, dict) or name not in node:
            near = difflib.get_close_matches(name, list(node) if isinstance(node, dict) else [], n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "name fields of train, such as detector.width"
            raise InputError(f"space: {path}: no such field; {hint}")
        node = node[name]
    if path == "detector.kind" or not (path.startswith("detector.") or path in TUNED):
        raise InputError(f"space: {path} is not searched; what is: detector.*, {', '.join(TUNED)}")


def _with_pixels(config: TuneConfig, fields: dict[str, Any]) -> dict[str, Any]:
    """Fields, and those that follow from their `tiles.mpp`."""
    mpp, tiles = fields["tiles.mpp"], config.train.tiles
    if not isinstance(mpp, int | float) or not mpp > 0:
        raise InputError(f"space: tiles.mpp {mpp!r} is no number above 0")
    side_px = side_at(tiles.tile_px, tiles.mpp, mpp)
    followed: dict[str, Any] = {"tiles.tile_px": side_px, "tiles.stride_px": None}
    if config.train.input_px == tiles.tile_px:
        followed["detector.input_px"] = side_px
    if "mpp" in config.train.model_dump()["detector"]:
        followed["detector.mpp"] = mpp
    return followed | fields


def side_at(tile_px: int, from_mpp: float, mpp: float) -> int:
    """Pixels of a tile's side at another pixel size.

    >>> side_at(96, 0.972, 1.944), side_at(96, 0.972, 0.486)
    (48, 192)
    """
    return max(1, round(tile_px * from_mpp / mpp))


def values_of(name: str, values: Range | Sequence[Any]) -> list[Any]:
    """All values of a parameter, for a grid.

    Raises:
        InputError: a range without a step.
    """
    if not isinstance(values, Range):
        return list(values)
    if values.step is None:
        raise InputError(f"space: {name} is a range without a step; for --grid give choices or a step")
    n = math.floor((values.high - values.low) / values.step + 1e-9) + 1
    if n > MOST_TRIALS:
        raise InputError(f"space: {name} has {n} values; a grid has {MOST_TRIALS} points at the most")
    return [values.low + i * values.step for i in range(n)]


def grid_of(config: TuneConfig) -> list[Assignment]:
    """Every point of the grid, the first parameter changing slowest.

    Raises:
        InputError: there are too many, or a range has no step.
    """
    by_name = {name: values_of(name, values) for name, values in config.space.items()}
    n = math.prod(len(values) for values in by_name.values())
    if n > MOST_TRIALS:
        raise InputError(f"space: the grid has {n} points; {MOST_TRIALS} at the most")
    return list(_points(by_name))


def _points(by_name: Mapping[str, Sequence[Any]]) -> Iterator[Assignment]:
    for values in itertools.product(*by_name.values()):
        yield dict(zip(by_name, values, strict=True))


def told(assignment: Mapping[str, Any]) -> str:
    """An assignment in one line, as people read it.

    >>> told({"detector.width": 8, "layer": {"detector.layers": ["relu4_2"]}})
    'detector.width 8, layer (layers relu4_2)'
    """
    return ", ".join(f"{name} {told_value(value)}" for name, value in assignment.items())


def told_value(value: Any) -> str:
    """A value in few words.

    >>> told_value(0.25), told_value(["a", "b"]), told_value(None)
    ('0.25', 'a + b', 'none')
    """
    if isinstance(value, Mapping):  # of fields, whose last names say enough
        return f"({told({name.rpartition('.')[2]: one for name, one in value.items()})})"
    if isinstance(value, list | tuple):
        return " + ".join(map(told_value, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if value is None else str(value)
