"""Search spaces: what is taken, and what is refused in one line."""

import re
from typing import Any

import pytest
from house import ROOT
from tune_searches import SEARCH, TILE_PX, search_of

from uadray.config import load_config, parse_config
from uadray.errors import InputError
from uadray.training.tune_config import TuneConfig, check_space, configured, grid_of


def _checked(space: dict[str, Any]) -> None:
    check_space(search_of(space))


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({"detector.widht": [4]}, "detector.widht: no such field; did you mean width?"),
        ({"detector.width.x": [4]}, "no such field"),
        ({"layer": ["block4"]}, "layer is no field of the training; then each choice is a mapping"),
        ({"layer": [{"detector.layer": ["block4"]}]}, "detector.layer: no such field; did you mean layers?"),
        ({"seed": [1, 2]}, "seed is not searched"),
        ({"tiles.tile_px": [32, 64]}, "tiles.tile_px is not searched"),
        ({"detector.kind": ["dpa", "fanogan"]}, "detector.kind is not searched"),
        ({"detector.width": [8, 100_000]}, "less than or equal to 256"),
        ({"detector.width": {"low": 4, "high": 512}}, "less than or equal to 256"),
        ({"detector.width": {"low": 4}}, "high: Field required"),
        ({"detector.learning_rate": {"low": 0.001, "high": float("inf")}}, "finite number"),
        ({"detector.learning_rate": {"low": 0.0, "high": 1.0, "log": True}}, "log takes a low above 0"),
        ({"detector.width": {"low": 8, "high": 4}}, "low 8 is not below high 4"),
        ({"detector.width": []}, "at least 1"),
        ({}, "at least 1"),
        ({"detector.layers": [["block99"]], "epochs": [0]}, "epochs: Input should be greater than or equal to 1"),
    ],
)
def test_a_bad_space_is_refused_in_one_line(space: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as refused:
        _checked(space)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_grid_has_every_point_once_and_an_end() -> None:
    space = {"detector.width": {"low": 4, "high": 8, "step": 2}, "epochs": [1, 2]}
    points = grid_of(search_of(space))
    assert points[:2] == [{"detector.width": 4, "epochs": 1}, {"detector.width": 4, "epochs": 2}]
    assert [point["detector.width"] for point in points] == [4, 4, 6, 6, 8, 8]
    with pytest.raises(InputError, match="range without a step"):
        grid_of(search_of({"detector.learning_rate": {"low": 0.1, "high": 0.2}}))
    with pytest.raises(InputError, match="1000 at the most"):
        grid_of(search_of({"detector.width": list(range(4, 60)), "epochs": list(range(1, 60))}))


def test_a_tile_shows_the_same_tissue_at_another_magnification() -> None:
    config = search_of({"magnification": [{"tiles.mpp": 2.0, "detector.input_px": 16}]})
    train = configured(config, {"magnification": {"tiles.mpp": 2.0, "detector.input_px": 16}})
    assert (train.tiles.mpp, train.tiles.tile_px, train.input_px) == (2.0, TILE_PX // 2, 16)
    detector = {"kind": "enlarged_nuclei", "mpp": 1.0, "input_px": 32, "backbone_mpp": 0.5}
    nuclei = SEARCH["train"] | {"detector": detector, "epochs": 9}
    config = parse_config(TuneConfig, SEARCH | {"train": nuclei, "space": {"tiles.mpp": [1.0, 0.5]}}, source="search")
    train = configured(config, {"tiles.mpp": 0.5})
    assert (train.detector.mpp, train.input_px) == (0.5, 2 * TILE_PX)  # type: ignore[union-attr]


def test_every_search_that_comes_along_can_be_run() -> None:
    paths = sorted((ROOT / "configs" / "tune").glob("*.yaml"))
    assert paths
    for path in paths:
        config = load_config(TuneConfig, path)
        check_space(config)
        points = [configured(config, point) for point in grid_of(config)]
        assert len({point.model_dump_json() for point in points}) == len(points), path.name
        comments = re.findall(r"^# .{20,}", path.read_text(encoding="utf-8"), re.M)
        assert comments, path.name
