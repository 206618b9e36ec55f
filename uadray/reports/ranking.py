"""The order in which slides should be read, by what each ended as."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

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
    group = pc.index_in(groups_of(decisions), value_set=pa.array(list(GROUPS)))
    reason = pc.if_else(pc.less(group, 2), "", pc.fill_null(decisions["reason"].cast("string"), ""))
    keys = pa.table(
        {"group": group, "reason": reason, **{name: decisions[name] for name in ("p_value", "score", "slide_id")}}
    )
    order = [("group", "ascending"), ("reason", "ascending"), ("p_value", "ascending"), ("score", "descending")]
    return decisions.take(pc.sort_indices(keys, sort_keys=[*order, ("slide_id", "ascending")]))


def groups_of(decisions: pa.Table) -> pa.Array:
    """The group of each row, see `group_of`.

    Raises:
        InputError: a row has a state and a decision that do not belong together.
    """
    state, decision = (pc.fill_null(decisions[name], "").combine_chunks() for name in ("state", "decision"))
    judged = pc.and_(pc.equal(state, "scored"), pc.is_in(decision, value_set=pa.array(["anomalous", "normal"])))
    unjudged = pc.and_(
        pc.equal(state, "not_assessable"), pc.is_in(decision, value_set=pa.array(["", "not_assessable"]))
    )
    failed = pc.and_(pc.equal(state, "failed"), pc.equal(decision, ""))
    known = pc.or_(pc.or_(judged, unjudged), failed)
    if not pc.all(known).as_py() and len(known):
        group_of(decisions.slice(pc.index(known, False).as_py(), 1).to_pylist()[0])
    return pc.if_else(judged, decision, state)


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
