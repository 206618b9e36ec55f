"""The page of `uadray tune`: names are escaped, figures stand in their places, nothing comes from elsewhere."""

import re
from typing import Any

from uadray.reports.tune_page import HEIGHT_PX, WIDTH_PX, plots, tune_page


def _row(number: int, auroc: float) -> dict[str, Any]:
    return {
        "number": number, "params": {"<width>": 8 * (number + 1), "layer": {"detector.layers": ["<i>4"]}},
        "state": "complete", "auroc": auroc, "auroc_sd": 0.01, "auroc_folds": [auroc - 0.1, auroc, auroc + 0.1],
        "criterion": 1 - auroc, "steps": 900, "seconds": 12.3, "curve": [[300, 0.5], [900, auroc]], "why": "",
    }  # fmt: skip


UNDONE = {"state": "failed", "auroc": None, "auroc_sd": None, "auroc_folds": [], "criterion": None, "curve": []}
ROWS = [_row(1, 0.7), _row(0, 0.6), _row(2, 0.0) | UNDONE | {"why": "DivergedError: <loss> is not finite"}]
ANSWER = {
    "name": "<script>alert(1)</script>", "detector": "dpa", "folds": 3, "n_normals": 4000, "n_anomalies": 20,
    "kinds": {"<b>tumour": 20}, "how": "optuna", "parameters": ["<width>", "layer"], "rows": ROWS, "known": 200,
    "rank_correlation": 1.0, "unsupervised": ROWS[0], "left_out": 2, "unreadable": 0, "by_slide": False,
}  # fmt: skip


def test_the_page() -> None:
    page = tune_page(ANSWER)
    for text in ("&lt;script&gt;alert(1)", "&lt;b&gt;tumour 20", "&lt;width&gt;", "(layers &lt;i&gt;4)", "optimistic",
                 "Best: AUROC 0.700 &plusmn; 0.010", "DivergedError: &lt;loss&gt; is not finite", "By tile:",
                 "1.00 (1: it orders", "2 normal tiles were among them and were left out"):  # fmt: skip
        assert text in page, text
    assert not re.search(r"https?://|<script|style=|<b>|<i>|<width>", page)
    assert page.count("<tr") == page.count("</tr>")


def test_points_stand_where_their_values_are() -> None:
    width, layer, steps, criterion = plots(ANSWER["parameters"], ROWS)
    (best, other) = width["points"]
    assert best["is_best"]
    assert not other["is_best"]
    assert best["x"] > other["x"]  # 16 and 8
    assert best["y"] < other["y"]  # higher is further up
    assert {text for _, text in width["x_ticks"]} == {"8", "16"}
    assert [point["x"] for point in layer["points"]] == [WIDTH_PX / 2] * 2
    assert steps["lines"][-1] == {"points": f"100.0,{HEIGHT_PX * 1.0:.1f} 300.0,{HEIGHT_PX / 3:.1f}",
                                  "is_best": True, "is_stopped": False}  # fmt: skip
    assert criterion["points"][0]["x"] < criterion["points"][1]["x"]
    inside = [
        point[at] for plot in (width, layer, criterion) for point in plot["points"] for at in ("top", "y", "bottom")
    ]
    assert 0 <= min(inside) < max(inside) <= HEIGHT_PX


def test_a_search_without_a_complete_trial_has_a_page() -> None:
    page = tune_page(ANSWER | {"rows": ROWS[2:], "rank_correlation": None, "unsupervised": None})
    assert "Best:" not in page
    assert "<svg" not in page
