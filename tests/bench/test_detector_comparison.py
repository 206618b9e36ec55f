"""What rows of mappings say together, by hand."""

import math
from typing import Any

import pytest

from uadray.bench.detector_comparison import compared, rank_correlation


def _row(mapping: str, generator: str, lpips: float, auroc: float, **mapped: Any) -> dict[str, Any]:
    search = {"name": mapping, "kind": mapping.partition("_")[0], "steps": mapped.pop("steps", 0), "space": "z"}
    figures = {
        "training": {"mapping": search | mapped.pop("search", {}), "generator": {"name": generator}},
        "pictures": {"normal": {"lpips": lpips}, "lpips_ratio": mapped.pop("ratio", 1.0)},
        "tiles": {"auroc": auroc, "auroc_ci95": [auroc - 0.1, auroc + 0.1]}, "tiles_with_tissue": {"auroc": auroc},
        "mapping": {"cpu_ms_per_tile": mapped.pop("ms", 1.0), "ms_per_tile": 7.0},
    }  # fmt: skip
    name = f"{mapping}@{generator}"
    return {"name": name, "label": name, "group": "mapping", "mean": figures, "by_seed": [{"device": "cpu"}]} | mapped


ROWS = [
    _row("fanogan_izi", "a", 0.3, 0.5, ms=0.5, ratio=0.9),
    _row("anogan_500", "a", 0.2, 0.6, ms=400.0, steps=500),
    _row("anogan_100", "a", 0.25, 0.55, ms=80.0, steps=100),
    _row("fanogan_izi", "b", 0.5, 0.4, ms=0.25),
    _row("anogan_500", "b", 0.4, 0.45, ms=500.0, steps=500, ratio=1.2),
    _row("hybrid_50", "b", 0.11, 0.7, ms=50.0, steps=50),
    _row("projection_w", "b", 0.12, 0.62, ms=990.0, steps=1000, search={"space": "w"}),
    _row("projection_wplus", "b", 0.1, 0.65, ms=1000.0, steps=1000, search={"space": "w+"}),
]


def test_the_best_of_rows_generators_and_mappings() -> None:
    said = compared([*ROWS, {"name": "dpa", "group": "detector"}])
    assert said is not None
    assert said["best_reconstruction"]["row"] == "projection_wplus@b"
    assert said["best_detection"]["row"] == "hybrid_50@b"
    generators = [(one["name"], one["lpips_normal"], one["n"]) for one in said["generators"]]
    assert generators == [("a", pytest.approx(0.25), 2), ("b", pytest.approx(0.45), 2)], "over what both have"
    assert said["generators"][1]["best"]["row"] == "projection_wplus@b"
    of_mappings = {one["name"]: one["lpips_normal"] for one in said["mappings"]}
    assert of_mappings["anogan_500"] is not None or set(of_mappings.values()) == {None}, "over generators all have"
    assert said["lpips_ratio"] == {"median": 1.0, "least": 0.9, "most": 1.2}


def test_paces_against_each_other() -> None:
    said = compared(ROWS)
    assert said is not None
    pairs = {pair["generator"]: pair for pair in said["encoder_against_search"]}
    assert (pairs["a"]["slow"]["row"], pairs["a"]["ratio"]) == ("anogan_500@a", 800), "that of the most steps"
    assert pairs["b"]["ratio"] == 2000
    (pair,) = said["hybrid_against_projection"]
    assert pair["slow"]["row"] == "projection_wplus@b"
    assert (pair["ratio"], pair["lpips_ratio"]) == (20, pytest.approx(1.1))
    on_gpu = [row | {"by_seed": [{"device": "cuda"}]} for row in ROWS]
    assert compared(on_gpu)["encoder_against_search"][0]["ratio"] == 1  # type: ignore[index]


def test_rank_correlation() -> None:
    """Ranks of AUROC by LPIPS: 5 4 3 1 2 of 5, so rho = 1 - 6 x (16 + 4 + 0 + 9 + 9) / (5 x 24)."""
    rows = [
        _row("m", "g", lpips, auroc) for lpips, auroc in ((0.1, 0.9), (0.2, 0.8), (0.3, 0.7), (0.4, 0.5), (0.5, 0.6))
    ]
    found = rank_correlation(rows, "pictures.normal.lpips", "tiles.auroc")
    assert found is not None
    assert found["rho"] == pytest.approx(-0.9)
    half = 1.959964 * math.sqrt((1 + 0.405) / 2)
    assert found["ci95"] == pytest.approx([math.tanh(math.atanh(-0.9) - half), math.tanh(math.atanh(-0.9) + half)])
    assert found["p"] == pytest.approx(0.0374, abs=1e-3)
    assert rank_correlation(rows[:4], "pictures.normal.lpips", "tiles.auroc")["ci95"] is None  # type: ignore[index]
    assert rank_correlation(rows[:3], "pictures.normal.lpips", "tiles.auroc") is None
    assert rank_correlation(rows, "pictures.lpips_ratio", "tiles.auroc") is None, "all have one ratio"


def test_no_mappings_no_comparison() -> None:
    assert compared([{"name": "dpa", "group": "detector"}]) is None
    assert compared([{"name": "failed", "group": "mapping", "failed": {"0": "x"}}]) is None
