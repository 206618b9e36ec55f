"""The page of `bench detectors`: figures in their places, failures said, nothing from elsewhere."""

import re

from uadray.reports.detectors_page import CURVE_PX, detectors_page

TILES = {
    "auroc": 0.8861,
    "auroc_ci95": [0.874, 0.899],
    "average_precision": 0.87,
    "sensitivity_at_95_specificity": 0.44,
}
SLIDES = {"auroc": 1.0, "called": 7.5, "false_alarms": 0, "n_tumour": 8, "n_normal": 8}
FIGURES = {
    "tiles": TILES, "tiles_with_tissue": TILES, "slides": {"test": SLIDES, "small": SLIDES}, "tiles_per_s": 1234.5,
    "shifted": {name: {"auroc": 0.88, "drop": 0.006} for name in ("swapped", "faded")}, "cpu_ms_per_tile": 12.0,
    "training": {"minutes": 1.5, "steps": 60, "steps_configured": 120, "tiles_seen": 24000},
    "above_trivial": {"mean_saturation": {"difference": 0.2241, "ci95": [0.2, 0.25]}},
    "scored": {"every": 1, "why": ""},
}  # fmt: skip
ANSWER = {
    "budget": {"minutes": 5.0, "seeds": 2, "device": "cpu"}, "held_normals": 1000, "known_tumours": 200, "alpha": 0.05,
    "scoring_minutes": 5.0, "aggregation": {"top_fraction": 0.1},
    "left_out": {"combined": "no file"}, "recommended": "good",
    "goals": {"tiles.auroc": ">= 0.88", "slides.test.called": ">= 7"}, "aims": {"tiles.auroc": 0.9}, "goals_met": True,
    "rows": [
        {"name": "good", "label": "good, 5 min", "group": "detector", "seeds": [0, 1], "budget": "5 min, cpu",
         "above_trivial": True, "mean": FIGURES | {"roc": [[0.0, 1.0], [0.5, 1.0]]},
         "by_seed": [FIGURES | {"seed": 0}, FIGURES | {"seed": 1}]},
        {"name": "bad", "label": "bad", "group": "detector", "seeds": [],
         "failed": {"0": "DivergedError: <loss> is not finite"}},
    ],
}  # fmt: skip


def test_the_page() -> None:
    page = detectors_page(ANSWER)
    for text in ("0.886<small>0.874 to 0.899", "falls by 0.006", "7.5<small>of 8", "60/120 steps", "24\u202f000",
                 "5 min, cpu",
                 '<span class="met">+0.224</span><small>+0.200 to +0.250', "1\u202f234",
                 "combined has no row: no file.",
                 "seed 0: DivergedError: &lt;loss&gt; is not finite", ">met<"):  # fmt: skip
        assert text in page, text
    assert f'points="0.0,{CURVE_PX / 2:.1f} {CURVE_PX:.1f},0.0"' in page
    assert not re.search(r"https?://|<script|style=", page)
    assert page.count("<tr") == page.count("</tr>")


def test_a_table_without_the_recommended_detector_has_no_goals() -> None:
    page = detectors_page(ANSWER | {"rows": ANSWER["rows"][1:], "goals_met": None})
    assert "Goals of" not in page


def test_what_was_left_out_is_a_dash_and_said() -> None:
    figures = FIGURES | {"slides": {}, "roc": [[0.0], [0.0]], "scored": {"every": 2, "why": "a tile takes 90 ms"}}
    row = {"name": "slow", "label": "slow", "group": "bundle", "seeds": [0], "budget": "", "above_trivial": False}
    page = detectors_page(ANSWER | {"rows": [row | {"mean": figures, "by_seed": []}], "goals_met": None})
    assert "every 2nd tile, no mosaics: a tile takes 90 ms" in page
    assert '<span class="missed">' in page
    assert page.count("<td>\N{EN DASH}</td>") + page.count('<td class="group">\N{EN DASH}</td>') == 6
