"""A generator's report: what it says of one that copies, and of itself."""

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from uadray.evaluation.feature_spaces import FeatureSpace
from uadray.evaluation.generator_figures import gathered, over_draws, scale, scale_tiles
from uadray.reports.generation_page import Pairs, Shown, figure, generation_page
from uadray.tiles.images import Pixels


@pytest.fixture
def space() -> FeatureSpace:
    """Pictures at 4 px as they are: 48 features."""

    def network(x: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)

    return FeatureSpace("efficientnet_lite0", network, torch.device("cpu"))


def _soft(n: int, seed: int) -> Pixels:
    rng = np.random.default_rng(seed)
    small = rng.integers(60, 200, size=(n, 4, 4, 3)).astype(np.uint8)
    return np.stack([cv2.resize(each, (80, 80)) for each in small])


def _batches(pictures: Pixels) -> Iterator[Pixels]:
    for start in range(0, len(pictures), 32):
        yield pictures[start : start + 32]


def test_pictures_are_gathered(space: FeatureSpace) -> None:
    pictures, told = _soft(70, 0), list[int]()
    found = gathered(space, _batches(pictures), kept=40, tick=told.append)
    assert found.pictures.shape == (40, 64, 64, 3)
    assert told == [32, 32, 6]
    np.testing.assert_allclose(found.features, space.of(pictures), atol=1e-5)


def test_the_scale_is_in_order(space: FeatureSpace) -> None:
    """Other real tiles are nearest; a generator that repeats the other half is told by its copies."""
    tiles = _soft(200, 0)
    features = space.of(tiles)
    m = scale_tiles(200, 150)
    assert m == 100
    rows = {row["of"]: row for row in scale(space, features, features[m:], _batches(tiles[:m]), seed=0)}
    names = ["other real tiles", "the same, 10 % darker", "noise"]
    assert list(rows) == [*names[:2], "the same, blurred by 1 px", "this generator", "noise"]
    distances = [rows[name]["frechet_efficientnet_lite0"] for name in names]
    assert distances == sorted(distances)
    assert rows["this generator"]["nearer_than_real"] == 1
    assert rows["other real tiles"]["nearer_than_real"] < 0.7
    assert rows["noise"]["recall_efficientnet_lite0"] == 0
    assert {row["tiles"] for row in rows.values()} == {100}


def test_figures_over_draws() -> None:
    values = [0.1, 0.4, 0.5]
    found = over_draws([{"recall": value} for value in values])
    assert found["recall"] == pytest.approx(1 / 3)
    assert found["recall_sd"] == pytest.approx(np.std(values, ddof=1))
    assert over_draws([{"recall": 0.3}]) == {"recall": 0.3}


@pytest.mark.parametrize("features", ["inception", "efficientnet_lite0"])
def test_the_page_names_figures_after_their_features(features: str) -> None:
    suffix = "" if features == "inception" else f"_{features}"
    frechet = "fid" if features == "inception" else f"frechet{suffix}"
    names = [frechet, *(f"{name}{suffix}" for name in ("kid", "precision", "recall"))]
    figures = dict.fromkeys([*names, *(f"{n}_sd" for n in names)], 0.5) | {f"kid{suffix}_sd_of_subsets": 0.1}
    answer = {
        "name": "g", "generator": {"kind": "pgan"}, "input_px": 8, "mpp": 0.5, "features": features, "samples": 50_000,
        "draws": 2, "real_tiles": 40_000, "seed": 0, "truncation": 1.0, "images_shown": None,
        "is_training_data": True, "figures": figures,
        "scale": [{"of": "other real tiles", "tiles": 9, "nearer_than_real": 0.25} | figures],
        "copies": {"features": 0.75, "pixels": 0.0, "checked": {"features": 5, "pixels": 5}},
        "perceptual_path_length": {
            "space": "w", "steps": 10, "full": {"mean": 3.0, "standard_error": 0.1},
            "end": {"mean": 2.0, "standard_error": 0.1},
        },
    }  # fmt: skip
    tiles = np.zeros((4, 8, 8, 3), np.uint8)
    page = generation_page(answer, Shown(tiles, tiles, [tiles], [Pairs("pixels", tiles, tiles, tiles, [0.5] * 4)]))
    assert ("no figure here is an FID" in page) is (features != "inception")
    assert ("<th>FID</th>" in page) is (features == "inception")
    assert "length, W, ends" in page
    assert "75 % of 5 samples" in page
    assert "25 % of cases" in page


def test_figures_have_the_decimals_of_their_size() -> None:
    assert [figure(v) for v in (1234.5, 99.96, 9.876, 0.5, 0.00123, 0)] == [
        "1234", "100.0", "9.88", "0.500", "1.2e-03", "0.000",
    ]  # fmt: skip
