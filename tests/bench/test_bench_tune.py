"""`bench tune`: what is chosen with which anomalies, from scores that are kept; and the whole of it on a tiny grid."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tune_searches import SEARCH, tile

from uadray.bench.tune import run
from uadray.bench.tune_figure import COLOURS, drawn, figure, figure_svg, without_anomalies
from uadray.bench.tune_grid import TUMOUR, Point
from uadray.config import parse_config
from uadray.errors import InputError
from uadray.training.tune_config import TuneConfig

KINDS = np.repeat(["a", "b", "c", TUMOUR], 40)


@pytest.fixture(autouse=True)
def _printing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command prints beside its answer stays where it is: a log file would outlive the test."""
    monkeypatch.setattr("uadray.commands.progress.divert", lambda: None)


def _points() -> list[Point]:
    """Two that are good at one kind each, of which one is good on valid; and one that is fair at all."""
    shares = {"good": (0.6, 0.9, 0.9), "lures": (0.9, 0.2, 0.2), "fair": (0.7, 0.7, 0.7)}
    truths = {"good": 0.8, "lures": 0.4, "fair": 0.7}
    rng = np.random.default_rng(0)
    return [
        Point(
            {"name": name}, np.repeat([*of, np.mean(of)], 40) + rng.normal(0, 0.01, 160), 1 - truths[name], truths[name]
        )
        for name, of in shares.items()
    ]


def test_one_kind_may_lure_and_three_do_not() -> None:
    rows = {(row["n"], row["kinds"]): row for row in figure(_points(), list(KINDS))}
    assert (1, 2) not in rows
    one, three = rows[20, 1], rows[20, 3]
    assert (three["auroc"], three["low"], three["within"]) == (pytest.approx(0.8), 0.8, 1.0)
    assert one["auroc"] == pytest.approx((0.8 + 0.8 + 0.4) / 3, abs=0.05)  # kind a is the lure, one time of three
    assert one["low"] == 0.4
    assert (rows[20, 0]["auroc"], rows[20, 0]["within"]) == (pytest.approx(0.8), 1.0)
    assert rows[1, 1]["within"] == pytest.approx(2 / 3, abs=0.1)
    assert without_anomalies(_points()).params == {"name": "good"}


def test_draws_are_even_and_without_repetition() -> None:
    rng = np.random.default_rng(1)
    for n, n_kinds in ((5, 2), (20, 3), (100, 1)):
        draw = drawn(rng, KINDS, np.arange(160), np.array(["a", "b", "c"]), n, n_kinds)
        assert len(draw) == len(set(draw)) == min(n, 40 * n_kinds)
        counts = np.unique(KINDS[draw], return_counts=True)[1]
        assert len(counts) == n_kinds
        assert np.ptp(counts) <= 1


def test_the_figure_has_a_line_a_number_of_kinds() -> None:
    svg = figure_svg(_points(), figure(_points(), list(KINDS)))
    assert all(svg.count(f'fill="none" stroke="{colour}"') == 1 for colour in COLOURS)
    for text in (
        "best of the grid 0.800",
        "chosen without anomalies 0.800",
        "chosen at random 0.633",
        "3 narrow kinds",
        ">tumour tiles<",
    ):
        assert text in svg, text
    heights = [float(y) for y in re.findall(r'cy="([-\d.]+)"', svg)]
    assert len(heights) == 4 + 3 + 3 + 4
    assert 0 <= min(heights) < max(heights) <= 320


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(InputError, match="bench tune has no part figures; there are: grid, figure"):
        run(only=["figures"])


def _write_zip(path: Path, normals: int, tumours: int, seed: int) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for label, n in (("normal", normals), ("tumor", tumours)):
            for i in range(n):
                image = tile(seed + 100 * len(label) + i, is_dotted=label == "tumor", side_px=96)
                archive.writestr(f"{label}/{i:03d}.png", bytes(cv2.imencode(".png", image)[1]))


@pytest.mark.ray
@pytest.mark.slow
def test_the_whole_bench_and_again(tmp_path: Path, ray_cluster: None) -> None:
    (tmp_path / "pcam").mkdir()
    _write_zip(tmp_path / "pcam" / "train.zip", 24, 40, 0)
    _write_zip(tmp_path / "pcam" / "valid.zip", 8, 8, 5000)
    train: dict[str, Any] = SEARCH["train"] | {"epochs": 1, "tiles": {"mpp": 0.972, "tile_px": 96, "min_tissue": 0.0}}
    space = {"detector.latent_channels": [1, 4]}
    config = parse_config(TuneConfig, {"train": train, "space": space, "folds": 2}, source="search")
    found = run(out=str(tmp_path / "out"), config=config, data=tmp_path, shown_n=5)
    assert found["points"] == 2
    assert found["grid"]["behind"] == pytest.approx(found["grid"]["best_auroc"] - found["grid"]["chosen_auroc"])
    assert found["goals_met"] is (found["grid"]["behind"] <= 0.02)
    assert {row["n"] for row in found["figure"]} >= {1, 5}
    kept = sorted((tmp_path / "out").rglob("*.json"))
    before = {path: path.stat().st_mtime_ns for path in kept if path.parent.name in ("folds", "truth")}
    assert len(before) >= 2 * 2 * 2 + 2
    again = run(out=str(tmp_path / "out"), config=config, data=tmp_path, shown_n=5)
    assert again | {"seconds": 0} == found | {"seconds": 0}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert json.loads((tmp_path / "out" / "tune.json").read_text())["points"] == 2
