"""How often a calibration is reported as broken: by `evaluate --normals`, and by the ledger of a screening.

Archives of `simulated_archives` are judged by site, each with normal slides of its own to calibrate it. All scores have
moved by half a deviation of their site, or none. Slides of sites that are too small are left out: the pool judges them,
and what alpha states is not theirs to begin with. The first so many patients of an archive make a smaller one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from uadray.bench.simulated_archives import NAMES, Slides, calibrated, drawn
from uadray.decisions.conformal import Calibration
from uadray.decisions.groups import reference_of
from uadray.decisions.validity import judged_slides, validity
from uadray.decisions.verdict import Verdict, decided
from uadray.evaluation.validity_report import validity_report
from uadray.slides.manifest import SlideRow

MOVED = 0.5
"""Deviations."""

SIZES = (25, 50, 100, 200)
"""Patients of an archive."""

NORMAL_PATIENTS = 150
SEED = 2028
ALPHAS = (0.05, 0.2)

_COLUMNS = pa.schema(
    [
        *((name, pa.string()) for name in ("slide_id", "site", "scanner", "patient", "decided_at", "state", "note")),
        ("p_value", pa.float64()),
        ("calibration_group_slides", pa.int64()),
    ]
)


def reported_broken(archives: int, *, sizes: Sequence[int] = SIZES, seed: int = SEED) -> dict[str, Any]:
    """By alpha, shift and patients: the shares of archives reported by `evaluate --normals` and by the ledger."""
    rng = np.random.default_rng(seed)
    counts = {(alpha, moved, size): np.zeros(2) for alpha in ALPHAS for moved in (0.0, MOVED) for size in sizes}
    for i in range(archives):
        by_site = calibrated(drawn(rng, NORMAL_PATIENTS, name=f"n{i}"), ALPHAS[0])
        archive = drawn(rng, max(sizes), name=f"a{i}")
        for alpha in ALPHAS:
            calibration = by_site.model_copy(update={"alpha": alpha})
            for moved in (0.0, MOVED):
                rows, decisions = _decided(archive.moved(moved), calibration)
                for size in sizes:
                    few = [row for row in rows if int(row.patient_id or 0) < size]
                    counts[alpha, moved, size] += _reports(few, decisions, calibration)
    return {
        f"alpha_{alpha:g}_moved_{moved:g}": {
            str(size): dict(zip(("evaluate", "ledger"), (counts[alpha, moved, size] / archives).tolist(), strict=True))
            for size in sizes
        }
        for alpha in ALPHAS
        for moved in (0.0, MOVED)
    }


def _decided(slides: Slides, calibration: Calibration) -> tuple[list[SlideRow], dict[str, Verdict]]:
    """The slides of sites that are judged by themselves, as a manifest has them, and their decisions."""
    judged = {name for name in NAMES if reference_of(calibration, {"site": name}).why is None}
    rows = [
        SlideRow(slide_id, slide_id, patient_id=str(patient), site=NAMES[site])
        for slide_id, patient, site in zip(slides.ids, slides.patient.tolist(), slides.site.tolist(), strict=True)
    ]
    score = dict(zip(slides.ids, slides.score.tolist(), strict=True))
    rows = [row for row in rows if row.site in judged]
    return rows, {
        row.slide_id: {"state": "scored", "note": None, **decided(score[row.slide_id], calibration, origin=row.origin)}
        for row in rows
    }


def _reports(rows: Sequence[SlideRow], decisions: dict[str, Verdict], calibration: Calibration) -> tuple[bool, bool]:
    """Whether `evaluate --normals` says that the calibration is broken, and whether the ledger does of any site."""
    table = pa.Table.from_pylist(
        [
            {"slide_id": row.slide_id, "site": row.site, "patient": row.patient_id, **decisions[row.slide_id]}
            for row in rows
        ],
        schema=_COLUMNS,
    )
    groups = validity(judged_slides(table), alpha=calibration.alpha, n_calibration=len(calibration.scores))
    return validity_report(decisions, rows)["holds"] is False, any(group.holds(()) is False for group in groups)
