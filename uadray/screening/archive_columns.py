"""What only all decisions of an archive together tell: columns of `decisions.parquet`, and the list of discoveries."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from uadray.decisions.conformal import Calibration
from uadray.decisions.fdr import listed, q_values, shortest_list
from uadray.decisions.validity import holding
from uadray.reports.spreadsheets import worklist_csv
from uadray.schemas import SLIDE_DECISIONS
from uadray.storage import objects

DISCOVERIES = "discoveries.csv"
"""The worklist's slides that are on the list with a stated false discovery rate, see `decisions.fdr`."""

FDR = "fdr"
"""Field of `run.json`: this rate, where `uadray recalibrate` was asked for the list."""


def of_the_archive(decisions: pa.Table, calibration: Calibration) -> pa.Table:
    """The decisions of one bundle with `calibration_holds` and `q_value`."""
    holds = pa.array(holding(decisions, calibration), pa.bool_())
    return with_q_values(with_column(decisions, "calibration_holds", holds))


def with_q_values(decisions: pa.Table) -> pa.Table:
    """The decisions with `q_value`.

    Slides that were used for training or calibration have none, and do not count among the others' slides.
    """
    is_news = pc.and_(pc.equal(decisions["state"], "scored"), pc.is_null(decisions["note"]))
    q = q_values(_floats(pc.if_else(is_news, decisions["p_value"], None)))
    return with_column(decisions, "q_value", pa.array(q, from_pandas=True))


def with_column(decisions: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """Rows of `SLIDE_DECISIONS` with other values in one column."""
    field = SLIDE_DECISIONS.field(name)
    return decisions.set_column(SLIDE_DECISIONS.get_field_index(name), field, values.cast(field.type))


def write_discoveries(folder: str, decisions: pa.Table, *, n_normals: int, rate: float | None) -> dict[str, Any]:
    """Write the list of this false discovery rate, if any; returns what `summary.json` says of it.

    Args:
        folder: of the decisions.
        decisions: rows of `SLIDE_DECISIONS` with `q_value`.
        n_normals: calibration slides of the largest group.
        rate: None where no list was asked for.
    """
    if rate is None:
        return {}
    q = _floats(decisions["q_value"])
    chosen = decisions.filter(pa.array(listed(q, rate)))
    objects.write_bytes(objects.join(folder, DISCOVERIES), worklist_csv(chosen).encode(), content_type="text/csv")
    shortest = shortest_list(int((~np.isnan(q)).sum()), n_normals, rate)
    return {"fdr": rate, "discoveries": len(chosen), "shortest_list": shortest}


def largest_group(calibration: Calibration) -> int:
    """Calibration slides of the largest group that a p-value may rest on."""
    return max(len(calibration.scores), *(len(group.scores) for group in calibration.groups), 1)


def _floats(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.float64]:
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)
