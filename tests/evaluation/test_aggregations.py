"""Methods compared on a screening's tiles: by hand, in bounded memory, and where there is nothing to compare."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from normal_slides import normal_slide, with_lesion
from sklearn.metrics import roc_auc_score

from uadray.decisions.aggregation import METHODS, new_aggregation, reference_of, slide_score
from uadray.decisions.neighbourhoods import squares_of
from uadray.evaluation import aggregations
from uadray.evaluation.aggregations import EvaluatedSlide, compared_methods, figures_of_aggregations
from uadray.evaluation.judged import judged_slides
from uadray.slides.manifest import SlideRow
from uadray.tiles.spec import TileSpec

SPEC = TileSpec(mpp=0.97, tile_px=96)


def _slides(n_normal: int, n_anomalous: int, *, n_squares: int = 80) -> list[EvaluatedSlide]:
    rng, slides = np.random.default_rng(0), []
    for i in range(n_normal + n_anomalous):
        squares = normal_slide(n_squares, rng)
        if i >= n_normal:
            squares = with_lesion(squares, 12, rng, height=2.5)
        x, y = 96 * squares.column, 96 * squares.row
        side = np.full(len(x), 96)
        tiles = pa.table({"x_level0_px": x, "y_level0_px": y, "width_level0_px": side, "height_level0_px": side,
                          "score": squares.score})  # fmt: skip
        slides.append(EvaluatedSlide(i >= n_normal, f"patient {i}", tiles))
    return slides


def test_figures_by_hand() -> None:
    slides = _slides(12, 8)
    found = compared_methods(slides, alpha=0.1, spec=SPEC)
    assert {each["method"] for each in found} == set(METHODS)
    assert [each["auroc"] for each in found] == sorted((each["auroc"] for each in found), reverse=True)
    config = new_aggregation("region")
    reference = reference_of([squares_of(each.tiles, SPEC) for each in slides[:12]], config)
    scores = [slide_score(each.tiles, config, spec=SPEC, reference=reference) for each in slides]
    (region,) = (each for each in found if each["method"] == "region")
    assert region["auroc"] == roc_auc_score([each.is_anomalous for each in slides], scores)
    assert region["called"] == np.mean(np.array(scores[12:]) > max(scores[:12]))  # the first of twelve, at alpha 0.1
    assert region["ci95"][0] < region["auroc"] < region["ci95"][1]
    assert (region["n_normal"], region["n_anomalous"]) == (12, 8)


def test_too_few_normal_slides_call_nothing() -> None:
    assert all(each["called"] is None for each in compared_methods(_slides(8, 3), alpha=0.1, spec=SPEC))


def test_tiles_without_a_number_do_not_count() -> None:
    slides = _slides(12, 8)
    more = [*slides, EvaluatedSlide(True, "none", slides[0].tiles.set_column(4, "score", pa.nulls(80, pa.float64())))]
    first = more[0].tiles
    more[0] = more[0]._replace(tiles=pa.concat_tables([first, first.slice(0, 1).set_column(4, "score", [[np.nan]])]))
    assert compared_methods(more, alpha=0.1, spec=SPEC) == compared_methods(slides, alpha=0.1, spec=SPEC)


@pytest.mark.parametrize(("n_normal", "n_anomalous"), [(0, 3), (3, 0), (0, 0)])
def test_one_class_compares_nothing(n_normal: int, n_anomalous: int) -> None:
    assert compared_methods(_slides(n_normal, n_anomalous), alpha=0.1, spec=SPEC) == []


def test_few_slides_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Normal slides are kept until there are enough of them; then tiles are gone as soon as the next slide comes."""
    monkeypatch.setattr(aggregations, "MOST_REFERENCE_TILES", 250)
    slides, passes = _slides(12, 8), list[int]()

    class _Read:
        def __iter__(self) -> Iterator[EvaluatedSlide]:
            passes.append(0)
            for slide in slides:
                passes[-1] += 1
                yield slide

    found = compared_methods(_Read(), alpha=0.1, spec=SPEC)
    assert passes == [4, 20]
    config = new_aggregation("higher_criticism")
    reference = reference_of([squares_of(each.tiles, SPEC) for each in slides[:3]], config)
    scores = [slide_score(each.tiles, config, spec=SPEC, reference=reference) for each in slides]
    (criticism,) = (each for each in found if each["method"] == "higher_criticism")
    assert criticism["auroc"] == roc_auc_score([each.is_anomalous for each in slides], scores)


def test_of_a_screening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles come from the screening's folder; where they are gone, or slides are too many, it says so."""
    slides = {f"s{i}": each for i, each in enumerate(_slides(11, 4))}
    rows = [SlideRow(name, f"{name}.tif", label="tumor" if each.is_anomalous else "normal")
            for name, each in slides.items()]  # fmt: skip
    decisions = {name: {"slide_id": name, "state": "scored", "score": 1.0, "alpha": 0.1, "decision": "normal"}
                 for name in slides}  # fmt: skip
    judged = judged_slides(decisions, rows)

    def read(uri: str) -> pa.Table:
        assert Path(uri).parent == tmp_path / "tiles"
        return slides[Path(uri).stem].tiles

    found = figures_of_aggregations(str(tmp_path), judged, read=read)
    assert found == {"aggregations": compared_methods(list(slides.values()), alpha=0.1)}
    assert found["aggregations"][0]["called"] is not None
    monkeypatch.setattr(aggregations, "MOST_SLIDES", 14)
    found = figures_of_aggregations(str(tmp_path), judged, read=read)
    assert found["aggregations"] == []
    assert "15 slides" in found["aggregations_note"]
