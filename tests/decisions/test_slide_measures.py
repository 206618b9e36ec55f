"""What tiles tell of their slide, by hand."""

import pyarrow as pa

from uadray.decisions.slide_measures import MEASURES, slide_measures
from uadray.schemas import SLIDE_DECISIONS, TILE_SCORES


def _tiles(scores: list[float | None]) -> pa.Table:
    n = len(scores)
    columns = {
        "tile_id": [str(i) for i in range(n)], "slide_id": ["s"] * n, "x_level0_px": range(n), "y_level0_px": [0] * n,
        "width_level0_px": [1] * n, "height_level0_px": [1] * n, "tissue_fraction": [1.0] * n, "band": ["tissue"] * n,
        "score": scores, "mean_saturation": [0.5 * i for i in range(n)], "mean_green": [0.25] * (n - 1) + [None],
        "flag": [None] * n, "error": [None] * n,
    }  # fmt: skip
    return pa.table(columns, schema=TILE_SCORES)


def test_medians_are_of_scored_tiles_and_the_share_of_all() -> None:
    """Tile 1 has no score: saturations 0, 1, 1.5 count, greens of two tiles, and four tiles of ten are tissue."""
    measures = slide_measures(_tiles([1.0, None, 4.0, 2.0]), focus=[3.0, 1.0, 2.0, 5.0], n_grid=10)
    assert measures == {
        "tile_score_median": 2.0, "saturation": 1.0, "green": 0.25, "focus": 2.5, "tissue_share": 0.4,
    }  # fmt: skip
    assert set(MEASURES) <= set(SLIDE_DECISIONS.names)


def test_what_is_not_known_is_null_and_not_zero() -> None:
    nothing = dict.fromkeys(MEASURES)
    assert slide_measures(None, focus=[1.0], n_grid=10) == nothing
    assert slide_measures(_tiles([None, None])) == nothing
    assert slide_measures(_tiles([None, None]), n_grid=8) == nothing | {"tissue_share": 0.25}
