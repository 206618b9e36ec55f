"""Figures of `bench detectors` by hand: slides called, curves, the threshold of held-out tiles."""

import numpy as np
import pyarrow as pa
import pytest

from uadray.bench.detector_data import CALIBRATION, CutSlide, DetectorData
from uadray.bench.detector_figures import Scoring, curve, figures_of, planned
from uadray.schemas import TILE_SCORES
from uadray.slides.manifest import SlideRow


def _tiles(*levels: float) -> np.ndarray:
    """Grey tiles of these levels."""
    return np.array(levels, np.uint8)[:, None, None, None].repeat(96, 1).repeat(96, 2).repeat(3, 3)


def _brightness(tiles: np.ndarray) -> np.ndarray:
    return tiles.mean((1, 2, 3))


def _slide(name: str, label: str, levels: list[float]) -> CutSlide:
    """A row of tiles, the last of which is flagged."""
    n = len(levels) + 1
    columns = {field.name: pa.nulls(n, field.type) for field in TILE_SCORES} | {
        "tile_id": pa.array([f"{name}_{i}" for i in range(n)]),
        "slide_id": pa.array([name] * n),
        **{k: pa.array([96 * i for i in range(n)]) for k in ("x_level0_px",)},
        **{k: pa.array([v] * n) for k, v in (("y_level0_px", 0), ("width_level0_px", 96), ("height_level0_px", 96))},
        "tissue_fraction": pa.array([1.0] * n, pa.float32()),
        "band": pa.array(["tissue"] * n),
        "flag": pa.array([None] * (n - 1) + ["pen"]),
        "error": pa.array([None] * (n - 1) + ["pen"]),
    }
    good = np.arange(n) < n - 1
    return CutSlide(
        SlideRow(name, f"{name}.tif", label=label), pa.table(columns, schema=TILE_SCORES), good, _tiles(*levels)
    )


@pytest.fixture(scope="module")
def data() -> DetectorData:
    normals = [_slide(f"n{i}", "normal", [50.0 + i] * 12) for i in range(20)]  # 50 to 69
    test = [
        _slide("found", "tumor", [70.0] * 12), _slide("missed", "tumor", [60.0] * 12),
        _slide("quiet", "normal", [55.0] * 12), _slide("loud", "normal", [90.0] * 12),
    ]  # fmt: skip
    valid = _tiles(10, 20, 30, 40, 25, 50, 60, 70)
    is_shifted = np.arange(8) % 2 == 0
    return DetectorData(
        normals=_tiles(1), held_normals=_tiles(*range(1, 21)), tumours=_tiles(99), known_tumours=_tiles(5, 30),
        valid=valid, anomalous=np.repeat([False, True], 4), has_tissue=np.arange(8) != 4, is_shifted=is_shifted,
        shifted={"swapped": valid[is_shifted], "faded": 255 - valid[is_shifted]},
        slides={CALIBRATION: normals, "test": test, "small": test[:3]},
    )  # fmt: skip


def test_figures(data: DetectorData) -> None:
    figures = figures_of(_brightness, data)
    assert figures["tiles"]["auroc"] == 14 / 16
    assert figures["tiles_with_tissue"]["auroc"] == 1.0
    assert figures["choosing_auroc"] == pytest.approx((4.5 + 20) / 40)
    assert figures["tiles"]["specificity_at_held_threshold"] == 0.25  # 19.05: 10 alone is below
    assert figures["tiles"]["sensitivity_at_held_threshold"] == 1.0
    assert figures["shifted"]["swapped"] == {
        "auroc": 0.75, "drop": 0.0, "sensitivity_at_95_specificity": 0.5, "n": 4,
    }  # fmt: skip
    assert figures["shifted"]["faded"]["drop"] == 0.5
    assert figures["slides"]["test"] == {
        "auroc": 0.5, "called": 1, "false_alarms": 1, "n_tumour": 2, "n_normal": 2, "not_scored": 0,
    }  # fmt: skip
    assert figures["slides"]["small"]["false_alarms"] == 0
    assert figures["tiles_per_s"] > 0


def test_a_slow_scorer_gets_fewer_tiles(data: DetectorData) -> None:
    """38 tiles in sets (20 + 2 + 8 + 2 x 4), 20 x 12 + 7 x 12 = 324 in mosaics."""
    assert planned(data, 1.0, most_valid=None, limit_s=362) == Scoring()
    assert planned(data, 1.0, most_valid=3, limit_s=362) == Scoring(every=3), "8 tiles of valid are three times 3"
    slow = planned(data, 1.0, most_valid=None, limit_s=361)
    assert (slow.every, slow.slides) == (1, False), "all tiles fit into half of the limit, mosaics not beside them"
    slower = planned(data, 1.0, most_valid=None, limit_s=20)
    assert (slower.every, slower.slides) == (4, False)
    assert slower.why == "a tile takes 1e+03 ms, scoring 0.333333 minutes at the most"
    assert planned(data, 1.0, most_valid=None, limit_s=345) == Scoring(1, False, slow.why.replace("6.01667", "5.75"))


def test_curve() -> None:
    at, found = curve(np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, True, False, True]))
    assert (at[0], at[-1], found[-1]) == (0.0, 1.0, 1.0)
    assert found[1] == pytest.approx(0.5), "the highest score is tumour's, the second a normal tile's"
    assert at[1] < 0.001, "close points where false alarms are few"
    assert found[np.searchsorted(at, 0.5) - 1] == pytest.approx(0.5), "up to the first false alarm"
    assert found[np.searchsorted(at, 0.5)] == pytest.approx(1.0)
