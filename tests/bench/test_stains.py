"""`bench stains`: the whole table on a few mosaics, going on after a kill, and gains by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uadray.bench import stains
from uadray.bench.stain_slides import METHODS, TRAINED, coloured
from uadray.errors import InputError


@pytest.mark.usefixtures("torch_alone")
def test_the_table(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UADRAY_DATA", str(data_dir))
    tiny = {"kind": "fanogan", "input_px": 16, "width": 4, "latent_dim": 8, "critic_steps": 1}
    monkeypatch.setattr(stains, "DETECTORS", {"tiny": {"detector": tiny, "batch_size": 8, "epochs": 1}})
    monkeypatch.setattr(stains, "DRAWS", 5)
    monkeypatch.setitem(stains.DETECTORS["tiny"], "steps_per_epoch", 20)
    options: dict[str, Any] = {"out": str(tmp_path), "shortened": 10, "most_slides": 2}
    answer = stains.run(**options)
    assert [row["method"] for row in answer["rows"]] == list(METHODS)
    assert {row["steps"] for row in answer["rows"]} == {2}, "the same steps for each method"
    assert "gains" not in answer["rows"][0]
    assert all(len(gain) == 3 for gain in answer["rows"][1]["gains"].values())
    tile_aurocs = {round(row["test_tile_auroc"], 6) for row in answer["rows"]}
    assert len(tile_aurocs) == 3, "each method gives other tiles"
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "rows").iterdir()}
    (tmp_path / "rows" / "tiny-macenko-seed0.json").unlink()
    again = stains.run(**options)["rows"]
    took = {"seconds_a_slide": 0}
    assert [row | took for row in again] == [row | took for row in answer["rows"]]
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "rows").iterdir()}
    assert [name for name in sorted(before) if before[name] != after[name]] == ["tiny-macenko-seed0.json"]


def test_no_such_detector() -> None:
    with pytest.raises(InputError, match="no detector dqa; there are: dpa, enlarged_nuclei, neighbours_lof"):
        stains.run(only=["dqa"])


def test_slides_of_two_scanners_become_more_alike(data_dir: Path) -> None:
    """Mosaics are of two stains in turn; each method brings them nearer to each other."""
    apart = {}
    for method in ("none", "macenko"):
        data = coloured(data_dir / "mosaics", method, most=2)  # type: ignore[arg-type]
        assert len(data.normals) > 100, TRAINED
        first, second = (slide.cut.pixels.mean((0, 1, 2)) for slide in data.slides["test"][2:])
        apart[method] = float(np.abs(first - second).mean())
        assert sum((slide.truth == 1).sum() for slide in data.slides["test"]) > 20
        assert all((slide.truth == 0).all() for slide in data.slides["test"][2:])
    assert apart["macenko"] < 0.8 * apart["none"]


def test_gains_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stains, "DRAWS", 5)

    def row(method: str, tiles: list[float], score: float) -> dict[str, Any]:
        slides = {
            "a": {"anomalous": True, "score": score, "truth": [1, 0], "tiles": tiles},
            "n": {"anomalous": False, "score": 1.0, "truth": [0, 0], "tiles": [1.0, 2.0]},
        }
        about = {"detector": "d", "steps": 1, "crops": 8, "tiles_of_train": 4, "seconds_a_slide": 0.1}
        return about | {"method": method, "seed": 0, "slides": {"test": slides, "small": slides}}

    rows = [row("none", [1.5, 0.0], 0.5), row("macenko", [2.5, 0.0], 2.0), row("vahadane", [0.5, 0.0], 0.5)]
    table = stains.table_of(rows)["rows"]
    assert [each["test_tile_auroc"] for each in table] == pytest.approx([2 / 3, 1.0, 1 / 3])
    assert [each["small_slide_auroc"] for each in table] == [0.0, 1.0, 0.0]
    assert table[1]["gains"]["test_tile_auroc"][0] == pytest.approx(1 / 3)
    assert table[2]["gains"]["test_slide_auroc"][0] == 0.0
