"""Decisions of several bundles -> one of each slide for all of them together, in the folder `combined`.

    run.json                                  `combined`: how scores are combined, and the calibration, if there is one
    recalibrated/<id>/combined.json           this calibration, see `decisions.combined`
    combined/decisions.parquet, ...           files for people, as of a bundle

Scores by bundle are in every slide's decision, so this is made when the files for people are written. Without a
calibration of the combined score the bundles' p-values are merged, and each decision says so.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from uadray.config import parse_config
from uadray.decisions.combined import (
    MERGED_BY,
    By,
    CombinedCalibration,
    combined_p_values,
    merged_p_values,
)
from uadray.decisions.false_alarms import false_alarm_interval
from uadray.decisions.slide_measures import MEASURES
from uadray.errors import InputError, NotFoundError
from uadray.provenance import fingerprint
from uadray.schemas import SLIDE_DECISIONS
from uadray.screening.archive_columns import with_q_values
from uadray.screening.bundles import MAX_CALIBRATION_BYTES, ScreeningBundle
from uadray.screening.kept_calibrations import kept_uri
from uadray.storage import objects

FOLDER, NAME = "combined", "combined.json"

COMBINED = "combined"
"""Field of `run.json`: `{"by", "id"}`, the id where there is a calibration of the combined score."""

Floats = npt.NDArray[np.float64]

AT_ONCE = 5000
"""Slides whose rows are made together."""

_OF_ALL = (
    "slide_id", "uri", "n_tiles", "n_scored", "coverage", "flags", "mpp_level0", "width_level0_px", "height_level0_px",
    "etag", "fingerprint", "mask", "site", "scanner", "stain", "decided_at", "patient", "read_seconds", "score_seconds",
    "bounds_x_level0_px", "bounds_y_level0_px", "bounds_width_level0_px", "bounds_height_level0_px",
    *(name for name in MEASURES if name != "tile_score_median"),
)  # fmt: skip
"""Fields that the bundles of a screening share."""


def read_combination(
    out: str, record: Mapping[str, Any], bundles: Sequence[ScreeningBundle]
) -> tuple[By, CombinedCalibration | None]:
    """How the bundles of a folder are combined, and by which calibration; None where there is none of these bundles.

    Args:
        out: the screening's folder.
        record: its `run.json`.
        bundles: with the calibrations that decide.

    Raises:
        InputError: the calibration cannot be understood.
    """
    given = record.get(COMBINED)
    named: Mapping[str, Any] = given if isinstance(given, dict) else {}
    by: By = next((by for by in get_args(By) if by == named.get("by")), "maximum")
    if not named.get("id"):
        return by, None
    uri = kept_uri(out, str(named["id"]), NAME)
    try:
        values = json.loads(objects.read_bytes(uri, max_bytes=MAX_CALIBRATION_BYTES))
    except NotFoundError:
        return by, None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{uri}: not JSON: {error}") from error
    calibration = parse_config(CombinedCalibration, values, source=uri)
    made_for = dict(zip(calibration.bundle_ids, calibration.calibration_ids, strict=True))
    is_ours = made_for == {each.bundle.id: each.calibration.id for each in bundles}
    return by, calibration if is_ours else None


def keep_combination(out: str, calibration: CombinedCalibration) -> None:
    """Keep a calibration of the combined score in a screening's folder."""
    objects.put_if_absent(kept_uri(out, calibration.id, NAME), calibration.model_dump_json(indent=1).encode())


def combined_decisions(
    bundles: Sequence[ScreeningBundle], decisions: Sequence[pa.Table], *, by: By,
    calibration: CombinedCalibration | None,
) -> pa.Table:  # fmt: skip
    """One row of `SLIDE_DECISIONS` a slide, for all bundles together.

    A slide is scored where all have scored it. Its score is in standard deviations of the normal slides. Evidence and
    pictures are those of the bundle that finds the slide the most abnormal.

    Args:
        bundles: with the calibrations that decided.
        decisions: of each bundle, the same slides in the same order, with `calibration_holds`.
        by: how scores are combined.
        calibration: of the combined score; without, p-values are merged.
    """
    scores, p_of_each = (
        np.column_stack([_numbers(table, name) for table in decisions]) for name in ("score", "p_value")
    )
    standardised = _standardised(scores, bundles)
    if calibration is None:
        common = _merged(bundles, by)
        p, combined = merged_p_values(p_of_each, by), _by(standardised, by)
        threshold = np.full(len(p), np.inf)
    else:
        common = _calibrated(calibration)
        order = [calibration.bundle_ids.index(each.bundle.id) for each in bundles]
        p, combined, threshold = combined_p_values(scores[:, np.argsort(order)], calibration)
    parts = [SLIDE_DECISIONS.empty_table()]
    for first in range(0, len(p), AT_ONCE):  # as Python objects, rows take much memory
        of_slides = zip(*(table.slice(first, AT_ONCE).to_pylist() for table in decisions), strict=True)
        made = [
            _row(of_slide, bundles, standardised[i], common, p=float(p[i]), score=float(combined[i]),
                 threshold=float(threshold[i]))
            for i, of_slide in enumerate(of_slides, start=first)
        ]  # fmt: skip
        parts.append(pa.Table.from_pylist(made, schema=SLIDE_DECISIONS))
    return with_q_values(pa.concat_tables(parts).combine_chunks())


def alpha_of(bundles: Sequence[ScreeningBundle], calibration: CombinedCalibration | None) -> float:
    """The stated false-alarm rate: that of the calibration, or the lowest of the bundles'."""
    return calibration.alpha if calibration is not None else min(each.calibration.alpha for each in bundles)


def name_of(bundles: Sequence[ScreeningBundle], by: By, calibration: CombinedCalibration | None) -> str:
    """What decisions call the calibration."""
    if calibration is not None:
        return calibration.id
    return "merged-" + fingerprint([by, *(each.calibration.id for each in bundles)])[:12]


def smallest_p(bundles: Sequence[ScreeningBundle], by: By, calibration: CombinedCalibration | None) -> float:
    """The smallest p-value that a slide can get; where it is above alpha, none is called."""
    if calibration is not None:
        return 1 / (len(calibration.scores) + 1)
    least = np.array([[1 / (len(each.calibration.scores) + 1) for each in bundles]])
    return float(merged_p_values(least, by)[0])


def _row(
    of_slide: Sequence[Mapping[str, Any]], bundles: Sequence[ScreeningBundle], z: Floats, common: Mapping[str, Any], *,
    p: float, score: float, threshold: float,
) -> dict[str, Any]:  # fmt: skip
    first = of_slide[0]
    row = dict.fromkeys(SLIDE_DECISIONS.names) | {name: first[name] for name in _OF_ALL}
    row["note"] = next((each["note"] for each in of_slide if each["note"] is not None), None)
    best = int(np.nanargmax(z)) if np.isfinite(z).any() else 0
    evidence, folder = of_slide[best], bundles[best].folder
    pictures = evidence["pictures"]
    row |= {"evidence": evidence["evidence"], "pictures": pictures and f"../{folder}/{pictures}"}
    for state in ("failed", "not_assessable"):
        for each, bundle in zip(of_slide, bundles, strict=True):
            if each["state"] == state:
                message = f"{bundle.name}: {each['message']}"
                return row | {"state": state, "reason": each["reason"], "message": message,
                              "decision": each["decision"]}  # fmt: skip
    if not np.isfinite(p):
        message = "a bundle's decision has no score or p-value; it was made by another program"
        return row | {"state": "failed", "reason": "no_p_value", "message": message}
    holds = [each["calibration_holds"] for each in of_slide]
    return row | dict(common) | {
        "state": "scored", "decision": "anomalous" if p <= common["alpha"] else "normal", "p_value": p, "score": score,
        "threshold": threshold if np.isfinite(threshold) else None,
        "calibration_holds": False if False in holds else None if None in holds else True,
    }  # fmt: skip


def _calibrated(calibration: CombinedCalibration) -> dict[str, Any]:
    n = len(calibration.scores)
    low, high = false_alarm_interval(calibration.alpha, n)
    return {
        "alpha": calibration.alpha,
        "calibration_id": calibration.id,
        "calibration_group": "pool",
        "calibration_group_slides": n,
        "false_alarm_low": low,
        "false_alarm_high": high,
    }


def _merged(bundles: Sequence[ScreeningBundle], by: By) -> dict[str, Any]:
    how = MERGED_BY[by]
    return {
        "alpha": alpha_of(bundles, None),
        "calibration_id": name_of(bundles, by, None),
        "calibration_group": f"each bundle's own, merged by {how}",
        "calibration_group_slides": min(len(each.calibration.scores) for each in bundles),
        "message": f"p-values of {len(bundles)} bundles merged by {how}: no normal slides are known that all scored",
    }


def _standardised(scores: Floats, bundles: Sequence[ScreeningBundle]) -> Floats:
    """Scores [slides, bundles] in standard deviations of each bundle's own normal slides."""
    normals = [np.asarray(each.calibration.scores, np.float64) for each in bundles]
    mean = np.array([each.mean() for each in normals])
    deviation = np.array([each.std() or 1.0 for each in normals])
    return np.asarray((scores - mean) / deviation)


def _by(standardised: Floats, by: By) -> Floats:
    return np.asarray(standardised.max(1) if by == "maximum" else standardised.mean(1))


def _numbers(table: pa.Table, name: str) -> Floats:
    """A column of slides that were scored, [slides]; NaN of others, and where it is not there."""
    values = pc.if_else(pc.equal(table["state"], "scored"), table[name], None)
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float64)
