"""What a process knows of whether calibrations hold, while it decides."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import screening_drivers as sd
from decision_rows import decision_table, scored

from uadray.screening import leases, watched_groups
from uadray.screening.slide_outputs import decisions_of
from uadray.screening.watched_groups import WatchedGroups
from uadray.storage import objects


def _decision(i: int, p: float, **more: Any) -> dict[str, Any]:
    row = scored(f"s{i}", "normal", p, 1.0, calibration_id="cal", decided_at=f"2026-01-01T00:00:{i:06d}Z", **more)
    return dict(decision_table(row).to_pylist()[0])


def _stored(*rows: dict[str, Any]) -> pa.Table:
    return decision_table(*rows).append_column("bundle", pa.nulls(len(rows), pa.string()))


def test_a_group_that_is_called_too_often_is_told_from_one_that_is_not() -> None:
    """Alpha is 0.25 with three normal slides; nothing is said before twenty slides."""
    groups = WatchedGroups(sd.panel())
    for i in range(39):
        assert groups.holds(0, site="North", scanner="A") is None
        groups.add([_decision(i, 0.9 if i % 2 else 1e-9, site="North", scanner="A" if i % 2 else None)])
        if i == 18:
            assert groups.holds(0, site="North", scanner=None) is None
    groups.add([_decision(40, 0.9, site="North", scanner="A")])
    assert groups.holds(0, site="North", scanner="A") is True
    assert groups.holds(0, site="North", scanner=None) is False
    assert groups.holds(0, site="South", scanner="A") is None


def test_what_was_decided_before_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    groups, rows = WatchedGroups(sd.panel()), [_decision(i, 1e-9, site="North") for i in range(30)]
    groups.begin(_stored(*rows))
    assert groups.holds(0, site="North", scanner=None) is False
    monkeypatch.setattr(watched_groups, "MOST", 25)
    groups.begin(_stored(*rows[:5], *(_decision(50 + i, 0.9, site="North") for i in range(25))))
    assert groups.holds(0, site="North", scanner=None) is True  # of the newest alone


def test_decisions_say_what_was_known_when_they_were_made(tmp_path: Path) -> None:
    out, rows = str(tmp_path / "out"), [replace(row, site="North") for row in sd.slides(tmp_path / "slides", 24)]
    with sd.book(out) as book:
        for todo in book.rounds(rows):
            for row in todo:
                assert leases.claim(book.owner, row.slide_id) == "ours"
                result = sd.scored(row)
                verdict = sd.verdicts(result)[0] | {"p_value": 1e-9, "note": None, "calibration_id": "cal"}
                assert book.commit(result, [verdict])
        book.finish(rows)
    records = (json.loads(objects.read_bytes(leases.decision_uri(out, row.slide_id))) for row in rows)
    held = [decisions_of(record)[0]["calibration_holds"] for record in records]
    assert held == [None] * 20 + [False] * 4
    assert sd.decisions_table(out)["calibration_holds"].to_pylist() == [False] * 24
