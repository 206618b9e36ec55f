"""What a slide's tiles tell of it as a whole: score, stain, focus and tissue, one number each.

A calibration keeps them of its normal slides, a decision of its slide: where they come apart, tissue or scanner have
changed.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

MEASURES = ("tile_score_median", "saturation", "green", "focus", "tissue_share")
"""Fields of `SLIDE_DECISIONS`. Medians over the slide's scored tiles, of their scores, mean saturation, mean green and
sharpness; and its tissue tiles, flagged ones included, as a share of all tiles of the grid."""


def slide_measures(
    tiles: pa.Table | None, *, focus: Sequence[float] = (), n_grid: int | None = None
) -> dict[str, float | None]:  # fmt: skip
    """The `MEASURES` of a slide; None of what is not known.

    Args:
        tiles: rows of `TILE_SCORES`; None of a slide that has failed.
        focus: sharpness of the tiles that were scored.
        n_grid: tiles of the whole grid, glass included.
    """
    if tiles is None:
        return dict.fromkeys(MEASURES)
    scored = tiles.filter(tiles["score"].is_valid())
    values = {name: scored[name].drop_null().to_numpy() for name in ("score", "mean_saturation", "mean_green")}
    medians = [_median(each) for each in (*values.values(), np.asarray(focus))]
    return dict(zip(MEASURES, [*medians, len(tiles) / n_grid if n_grid else None], strict=True))


def _median(values: npt.NDArray[np.floating]) -> float | None:
    return float(np.median(values)) if len(values) else None
