"""Rows of `SLIDE_DECISIONS` as a screening leaves them."""

import json
from typing import Any

import pyarrow as pa

from uadray.schemas import SLIDE_DECISIONS


def scored(slide_id: str, decision: str, p_value: float, score: float, **more: Any) -> dict[str, Any]:
    top = [{"tile_id": f"t{i}", "x_level0_px": 100 * i, "y_level0_px": 200, "score": score - i} for i in range(2)]
    row = {
        "state": "scored",
        "decision": decision,
        "p_value": p_value,
        "score": score,
        "threshold": 0.5,
        "alpha": 0.1,
        "n_tiles": 10,
        "n_scored": 9,
        "coverage": 0.9,
        "mpp_level0": 0.5,
        "width_level0_px": 2000,
        "height_level0_px": 1000,
        "evidence": json.dumps(top),
    }
    return {"slide_id": slide_id, "uri": f"/slides/{slide_id}.tif", "fingerprint": "f", **row, **more}


def unscored(slide_id: str, state: str, reason: str, message: str = "") -> dict[str, Any]:
    decision = None if state == "failed" else "not_assessable"
    row = {"state": state, "reason": reason, "message": message, "decision": decision, "fingerprint": "f"}
    return {"slide_id": slide_id, "uri": f"/slides/{slide_id}.tif", **row}


def decision_table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([dict.fromkeys(SLIDE_DECISIONS.names) | row for row in rows], schema=SLIDE_DECISIONS)


def all_kinds() -> pa.Table:
    """Two normal slides, three anomalous ones, one that is not assessable and two that failed."""
    return decision_table(
        unscored("f1", "failed", "unreadable", "cut short"),
        scored("n1", "normal", 0.5, 0.3),
        scored("a3", "anomalous", 0.05, 0.6),
        unscored("u1", "not_assessable", "little_tissue"),
        scored("a1", "anomalous", 0.01, 0.7),
        unscored("f0", "failed", "missing"),
        scored("a2", "anomalous", 0.05, 0.9),
        scored("n0", "normal", 0.2, 0.4),
    )
