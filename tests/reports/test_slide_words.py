"""What is said of a slide."""

from typing import Any

from decision_rows import decision_table, scored

from uadray.reports.slide_words import slide_words


def _said(**more: Any) -> str:
    row = decision_table(scored("s", "anomalous", 0.01, 0.7, **more)).to_pylist()[0]
    return "".join(
        f"<{text}>" if bold else text for text, bold in slide_words(row, group="anomalous", n_good=9, flags=[])
    )


def test_what_is_not_known_is_not_said() -> None:
    assert (
        _said()
        == "About 1 % of slides known to be normal would score at least this high. 9 of 9 tissue tiles were scored."
    )


def test_against_whom_a_slide_was_judged() -> None:
    group = {"calibration_group": "site=North", "calibration_group_slides": 1034}
    assert "Judged against 1\u202f034 normal slides of site=North. " in _said(**group)
    pool = {"calibration_group": "pool", "calibration_group_slides": 34}
    assert "Judged against all 34 normal slides of the calibration. " in _said(**pool)
    why = pool | {"message": "judged by the pool: site=South has 2 slides, 4 are needed at alpha 0.2: 2 more"}
    assert ". Judged by the pool: site=South has 2 slides, 4 are needed at alpha 0.2: 2 more. " in _said(**why)
    interval = {"false_alarm_low": 0.021, "false_alarm_high": 0.15}
    assert "34 normal slides of the calibration, with which 2.1 % to 15 % of normal slides are" in _said(
        **pool, **interval
    )


def test_a_calibration_that_does_not_hold_comes_first_and_is_bold() -> None:
    told = "p-value and decision cannot be relied on.>"
    assert _said(calibration_holds=False).startswith(f"<The calibration does not hold for slides like this one: {told}")
    assert f"for site North and scanner S1: {told}" in _said(calibration_holds=False, site="North", scanner="S1")
    assert "calibration" not in _said(calibration_holds=True)


def test_false_discoveries_and_tiles_that_were_left() -> None:
    assert "down to this one, 4.2 % at most are expected to be false alarms (q-value)." in _said(q_value=0.042)
    assert "7 of 9 tissue tiles were scored; <2 could not be read>." in _said(n_scored=7)
