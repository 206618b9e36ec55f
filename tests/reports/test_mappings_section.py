"""The part of the page of `bench detectors` on mappings: sentences, table and plot."""

from typing import Any

import pytest

from uadray.bench.detector_comparison import compared
from uadray.reports.mappings_section import HEIGHT_PX, WIDTH_PX, mappings_section, placed, plot, sentences


def _row(mapping: str, generator: str, lpips: float, auroc: float, steps: int = 0) -> dict[str, Any]:
    kind = mapping.partition("_")[0]
    figures = {
        "training": {
            "mapping": {"name": mapping, "kind": kind, "steps": steps, "space": "z"}, "steps": 100,
            "generator": {"name": generator, "images_shown": 32000},
        },
        "pictures": {
            "normal": {"lpips": lpips, "l1": 0.2, "n": 200, "lpips_ci95": [lpips - 0.01, lpips + 0.01]},
            "tumour": {"lpips": lpips * 1.1, "l1": 0.3, "n": 190}, "lpips_ratio": 1.1, "lpips_auroc": 0.51,
        },
        "tiles": {"auroc": auroc, "auroc_ci95": [auroc - 0.05, auroc + 0.05]}, "tiles_with_tissue": {"auroc": auroc},
        "mapping": {"cpu_ms_per_tile": 1.0 + steps, "ms_per_tile": 1.0, "steps": 0.9 * steps if steps else None},
    }  # fmt: skip
    name = f"{mapping}@{generator}"
    return {"name": name, "label": name, "group": "mapping", "seeds": [0], "budget": "1 min, cpu", "mean": figures}


ROWS = [
    _row(mapping, generator, lpips + d, 0.9 - lpips - d, steps)
    for generator, d in (("<pgan>", 0.0), ("dcgan", 0.02))
    for mapping, lpips, steps in (("anogan", 0.1, 500), ("fanogan_izi", 0.2, 0), ("fanogan_ziz", 0.4, 0))
]


def test_the_section() -> None:
    shown = mappings_section({"rows": ROWS, "mappings": compared(ROWS)})
    for text in (
        "Best reconstruction of normals: anogan@&lt;pgan&gt;, LPIPS 0.100, at an AUROC of 0.800.",
        "Generators by mean LPIPS on normals over the 3 mappings that all have: &lt;pgan&gt; 0.233, dcgan 0.253.",
        "rows that reconstruct normals better detect better. Rank correlation",
        "501 times as fast", "450<small>of 500</small>", "one pass", "32\u202f000", "200 + 190 tiles",
    ):  # fmt: skip
        assert text in shown, text
    assert shown.count("<tr") == shown.count("</tr>") == 2 + 6 + 1 + 2, "rows, and pairs"
    assert shown.count("<circle") == 6 + 2, "the points, and the key"
    ends = ("0.090 to 0.110", "0.110 to 0.130", "0.190 to 0.210", "0.410 to 0.430")
    assert [shown.index(text) for text in ends] == sorted(shown.index(text) for text in ends), "in the order of LPIPS"


def test_no_mappings_no_section() -> None:
    assert mappings_section({"rows": [], "mappings": None}) == ""
    assert mappings_section({"rows": []}) == "", "a table that was written before there were any"


@pytest.mark.parametrize(
    ("ends", "text"),
    [([-0.9, -0.2], "detect better"), ([0.1, 0.8], "detect worse"), ([-0.4, 0.3], "no relation is shown")],
)
def test_what_a_correlation_says(ends: list[float], text: str) -> None:
    said = compared(ROWS)
    assert said is not None
    said["lpips_against_auroc"] = {"rho": sum(ends) / 2, "p": 0.2, "ci95": ends, "n": 6}
    (line,) = [line for line in sentences(said, 6) if line.startswith("Whether better")]
    assert text in line
    said["lpips_against_auroc"] = None
    assert any("3 rows are too few to say" in line for line in sentences(said, 3))


def test_points_stand_where_their_figures_are() -> None:
    drawn = plot(ROWS)
    assert [text for _, text in drawn["x_ticks"]] == ["0.1", "0.2", "0.3", "0.4", "0.5"]
    first = drawn["points"][0]
    assert first["x"] == 0, "0.1 is the first tick"
    assert all(0 <= point["x"] <= WIDTH_PX and 0 <= point["y"] <= HEIGHT_PX for point in drawn["points"])
    ys = [point["y"] for point in drawn["points"][:3]]
    assert ys == sorted(ys), "higher AUROC, higher up"
    assert len(set(drawn["colours"].values())) == 2


def test_labels_cover_no_point_and_no_label() -> None:
    points = [(100.0 + 0.5 * i, 200.0) for i in range(12)]
    labels = placed(points, ["fanogan_izi_f"] * 12)
    assert labels[0] is not None
    assert labels[-1] is None, "there is no room for twelve"
    boxes = [label for label in labels if label]
    assert len({(box["x"] // 20, box["y"] // 12) for box in boxes}) == len(boxes)
    right = placed([(WIDTH_PX - 1.0, 50.0)], ["fanogan"])[0]
    assert right is not None
    assert right["anchor"] == "end", "left of a point at the right edge"
