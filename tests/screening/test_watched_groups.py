"""What a process knows of whether calibrations hold, while it decides."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import screening_drivers as sd
from decision_rows import decision_table, scored

from uadray.decisions.conformal import NormalSlide
from uadray.screening import leases, watched_groups
from uadray.screening.bundles import ScreeningBundle
from uadray.screening.ledger import open_ledger
from uadray.screening.slide_outputs import decisions_of
from uadray.screening.watched_groups import WatchedGroups
from uadray.storage import objects

NORMALS = tuple(NormalSlide(green=0.5 + 0.01 * (i % 7), saturation=0.3 + 0.01 * (i % 5)) for i in range(60))


def _panel() -> tuple[ScreeningBundle, ...]:
    """A bundle whose calibration knows how green and how saturated its normal slides are."""
    calibration = sd.CALIBRATION.model_copy(update={"normals": NORMALS})
    return tuple(replace(each, calibration=calibration) for each in sd.panel())


def _decision(i: int, p: float, **more: Any) -> dict[str, Any]:
    row = scored(f"s{i}", "normal", p, 1.0, calibration_id="cal", decided_at=f"2026-01-01T00:00:{i:06d}Z", **more)
    return dict(decision_table(row).to_pylist()[0])


def _stored(*rows: dict[str, Any]) -> pa.Table:
    return decision_table(*rows).append_column("bundle", pa.nulls(len(rows), pa.string()))


def test_a_group_that_has_drifted_is_told_from_one_that_has_not() -> None:
    """Every second slide is of a scanner whose colours are others; nothing is said before twenty slides."""
    groups = WatchedGroups(_panel())
    for i in range(19):
        groups.add([_of_scanner(i)])
        assert {groups.holds(0, site="North", scanner=scanner) for scanner in ("A", None)} == {None}
    for i in range(19, 160):
        groups.add([_of_scanner(i)])
    assert groups.holds(0, site="North", scanner="A") is True
    assert groups.holds(0, site="North", scanner=None) is False
    assert groups.holds(0, site="South", scanner="A") is None


def _of_scanner(i: int) -> dict[str, Any]:
    green = 0.5 + 0.01 * (i // 2 % 7) if i % 2 else 0.9
    return _decision(i, 0.9, site="North", scanner="A" if i % 2 else None, green=green)


def test_a_group_of_which_many_are_called_may_be_of_anomalous_slides() -> None:
    """Nobody can tell: it is neither said to hold nor not to."""
    groups = WatchedGroups(_panel())
    for i in range(160):
        groups.add([_decision(i, 1e-9, site="North", green=0.5 + 0.01 * (i % 7))])
    assert groups.holds(0, site="North", scanner=None) is None


def test_what_was_decided_before_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    groups, rows = WatchedGroups(_panel()), [_decision(i, 0.9, site="North", green=0.9) for i in range(60)]
    groups.begin(_stored(*rows))
    assert groups.holds(0, site="North", scanner=None) is False
    monkeypatch.setattr(watched_groups, "MOST", 25)
    groups.begin(_stored(*rows[:5], *(_decision(50 + i, 0.9, site="North") for i in range(25))))
    assert groups.holds(0, site="North", scanner=None) is True  # of the newest alone


def test_decisions_say_what_was_known_when_they_were_made(tmp_path: Path) -> None:
    """The slides' green is 0.1, the calibration's about 0.5; it is looked at with 20 and with 40 slides."""
    out, rows = str(tmp_path / "out"), [replace(row, site="North") for row in sd.slides(tmp_path / "slides", 44)]
    with open_ledger(out, _panel()) as book:
        for todo in book.rounds(rows):
            for row in todo:
                assert leases.claim(book.owner, row.slide_id) == "ours"
                result = sd.scored(row)
                verdict = sd.verdicts(result)[0] | {"p_value": 0.9, "note": None, "calibration_id": "cal"}
                assert book.commit(result, [verdict])
        book.finish(rows)
    records = (json.loads(objects.read_bytes(leases.decision_uri(out, row.slide_id))) for row in rows)
    held = [decisions_of(record)[0]["calibration_holds"] for record in records]
    assert held[:20] == [None] * 20
    assert held[40:] == [False] * 4
    assert sd.decisions_table(out)["calibration_holds"].to_pylist() == [False] * 44
