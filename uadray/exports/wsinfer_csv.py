"""Tile scores as CSV in the layout of WSInfer, for what reads WSInfer's results.

WSInfer (Kaczmarzyk et al. 2024, github.com/SBU-BMI/wsinfer) writes `model-outputs-csv/<slide>.csv` with `minx`, `miny`,
`width` and `height` in level-0 pixels and a column `prob_<class>` for each class, from 0 to 1. Here that is
`prob_anomaly`: the share of normal tiles, of the calibration, that score less than the tile. It is not the probability
of a tumour. `score` is the tile's own. Where no calibration tells the share, the only one is `prob_score`: the score,
on a scale of its own. Tiles without a score have no row.
"""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv

from uadray.exports.exported_slide import ExportedSlide, ExportOptions

FOLDER, SUFFIX, VERSION = "model-outputs-csv", ".csv", 1


def exported(slide: ExportedSlide, options: ExportOptions) -> bytes:
    """The CSV of a slide, from the upper left tile on, row by row."""
    boxes, scores = slide.scored_boxes()
    x0, y0 = slide.origin(options)
    columns: dict[str, npt.NDArray[Any]] = {
        "minx": boxes[:, 0] - x0, "miny": boxes[:, 1] - y0, "width": boxes[:, 2], "height": boxes[:, 3],
    }  # fmt: skip
    share = slide.normal_share(scores)
    columns |= {"prob_score": scores} if share is None else {"prob_anomaly": np.round(share, 4), "score": scores}
    sink = io.BytesIO()
    sink.write((",".join(columns) + "\n").encode())  # pyarrow would put names in quotes
    csv.write_csv(pa.table(columns), sink, csv.WriteOptions(include_header=False))
    return sink.getvalue()
