"""The order in which slides are read."""

import pytest
from decision_rows import all_kinds, decision_table, scored

from uadray.errors import InputError
from uadray.reports.ranking import rank
from uadray.schemas import SLIDE_DECISIONS


def test_rank_by_hand() -> None:
    decisions = all_kinds()
    ranked = rank(decisions)
    assert ranked["slide_id"].to_pylist() == ["a1", "a2", "a3", "n0", "n1", "u1", "f0", "f1"]
    assert ranked.schema == SLIDE_DECISIONS
    assert rank(decisions.slice(0, 0)).num_rows == 0


def test_rank_refuses_a_state_and_a_decision_that_do_not_belong_together() -> None:
    with pytest.raises(InputError, match=r"slide s: state 'failed' and decision 'normal'"):
        rank(decision_table(scored("s", "normal", 0.5, 0.3, state="failed")))
    with pytest.raises(InputError, match="decision None"):
        rank(decision_table(scored("s", "normal", 0.5, 0.3) | {"decision": None}))
