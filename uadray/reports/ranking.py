"""The order in which slides should be read, by what each ended as."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from uadray.errors import InputError

GROUPS = {"anomalous": "Anomalous", "normal": "Normal", "not_assessable": "Not assessable", "failed": "Failed"}
"""What a slide ends as, in the order of the worklist, with the words people read."""


def rank(decisions: pa.Table) -> pa.Table:
    """Order slides as they should be read: anomalous, normal, not assessable, failed.

    Scored slides go by p-value, lowest first, then by score, highest first; the others by reason; then by slide id.

    Args:
        decisions: rows of `SLIDE_DECISIONS`.

    Raises:
        InputError: a row has a state and a decision that do not belong together.
    """
    rows = decisions.select(["slide_id", "state", "decision", "reason", "p_value", "score"]).to_pylist()
    keys = [_rank_key(row) for row in rows]
    return decisions.take(pa.array(sorted(range(len(rows)), key=keys.__getitem__), pa.int64()))


def group_of(row: Mapping[str, Any]) -> str:
    """The group of `GROUPS` that a row of `SLIDE_DECISIONS` belongs to.

    Raises:
        InputError: its state and its decision do not belong together.
    """
    state, decision = row["state"], row["decision"]
    if state == "failed" and decision is None:
        return "failed"
    if state == "not_assessable" and decision in (None, "not_assessable"):
        return "not_assessable"
    if state == "scored" and decision in ("anomalous", "normal"):
        return str(decision)
    raise InputError(f"slide {row['slide_id']}: state {state!r} and decision {decision!r} do not belong together")


def _rank_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    group = group_of(row)
    p_value = float("inf") if row["p_value"] is None else row["p_value"]
    score = float("inf") if row["score"] is None else -row["score"]
    reason = "" if group in ("anomalous", "normal") else row["reason"] or ""
    return (list(GROUPS).index(group), reason, p_value, score, row["slide_id"])
