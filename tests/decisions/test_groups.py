"""Which normal slides judge a slide: its own group's or all, why, and what a calibration may say of groups."""

from typing import Any

import pytest
from pydantic import ValidationError

from uadray.decisions.aggregation import AggregationConfig
from uadray.decisions.conformal import MAX_GROUPS, MAX_NAME, Calibration, calibration_id
from uadray.decisions.false_alarms import false_alarm_interval
from uadray.decisions.groups import check_groups, groups_of, kinds_of, members_of, reference_of, stated_rates, too_small
from uadray.decisions.verdict import decided
from uadray.errors import InputError

NORTH = tuple(10.0 + i for i in range(9))
SOUTH = (1.0, 2.0, 3.0)
POOL = tuple(map(float, range(12)))


def _calibration(**values: Any) -> Calibration:
    groups = [{"values": {"site": "North"}, "scores": NORTH}, {"values": {"site": "South"}, "scores": SOUTH}]
    return Calibration.model_validate({
        "id": "c", "bundle_id": "b", "aggregation": AggregationConfig(), "alpha": 0.1, "scores": POOL,
        "tile_median": 0.1, "tile_p99": 0.2, "tile_high": 0.3, "group_by": ("site",), "groups": groups, **values,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("origin", "name", "why"),
    [
        ({"site": "North", "scanner": "any"}, "site=North", None),
        ({"site": "South"}, "pool", "site=South has 3 slides, 9 are needed at alpha 0.1: 6 more"),
        ({"site": "West"}, "pool", "the calibration has no slides of site=West"),
        ({"site": None}, "pool", "the slide's site is not known"),
        ({}, "pool", "the slide's site is not known"),
    ],
)
def test_its_own_group_or_the_pool_and_why(origin: dict[str, str | None], name: str, why: str | None) -> None:
    calibration = _calibration()
    reference = reference_of(calibration, origin)
    assert (reference.name, reference.why) == (name, why)
    assert reference.scores == (NORTH if name == "site=North" else POOL)
    verdict = decided(12.0, calibration, origin=origin)
    assert verdict["calibration_group"] == name
    assert verdict["calibration_group_slides"] == len(reference.scores)
    assert verdict["message"] == (why and f"judged by the pool: {why}")
    assert verdict["decision"] == ("normal" if name == "site=North" else "anomalous"), "12 is high, but not for North"
    assert verdict["threshold"] == reference.scores[-1]
    interval = false_alarm_interval(0.1, len(reference.scores))
    assert (verdict["false_alarm_low"], verdict["false_alarm_high"]) == interval


def test_without_groups_all_slides_judge_and_nothing_is_said() -> None:
    verdict = decided(12.0, _calibration(group_by=(), groups=()), origin={"site": "North"})
    assert (verdict["calibration_group"], verdict["calibration_group_slides"], verdict["message"]) == ("pool", 12, None)


def test_groups_of_two_kinds_are_those_of_both() -> None:
    groups = [{"values": {"scanner": "A", "site": "North"}, "scores": NORTH}]
    calibration = _calibration(group_by=("site", "scanner"), groups=groups)
    assert reference_of(calibration, {"site": "North", "scanner": "A"}).name == "site=North, scanner=A"
    assert reference_of(calibration, {"site": "North", "scanner": "B"}).why == (
        "the calibration has no slides of site=North, scanner=B"
    )
    assert reference_of(calibration, {"site": "North"}).why == "the slide's scanner is not known"


def test_long_names_are_cut_in_calibrations_and_slides_alike() -> None:
    long = "x" * (MAX_NAME + 50)
    groups = groups_of({"a": 1.0}, {"a": {"site": long}}, {"a": ("slide", "a")}, ("site",))
    calibration = _calibration(alpha=0.5, groups=groups)
    assert reference_of(calibration, {"site": long}).scores == (1.0,)


def test_one_slide_a_patient_in_each_group() -> None:
    """A patient with slides in both groups counts in each; one with three in a group once."""
    origins = {f"s{i}": {"site": "N" if i < 4 else "S" if i < 6 else None} for i in range(7)}
    patients = {f"s{i}": ("patient", "p" if i in (0, 1, 2, 4) else f"q{i}") for i in range(7)}
    members = {values["site"]: ids for values, ids in members_of(origins, patients, ("site",))}
    assert {len(members["N"]), len(members["S"])} == {2}
    assert len({"s0", "s1", "s2"} & set(members["N"])) == 1
    assert set(members["S"]) == {"s4", "s5"}
    groups = groups_of({slide_id: -float(slide_id[1]) for slide_id in origins}, origins, patients, ("site",))
    assert groups[1].scores == (-5.0, -4.0)
    assert members_of(origins, patients, ()) == []


def test_what_is_told_of_groups_that_are_too_small() -> None:
    assert too_small({"site=North": 7, "site=South": 19}, 0.05) == [
        "site=North has 7 slides, 19 are needed at alpha 0.05: 12 more; it is judged by the pool"
    ]
    check_groups({"site=North": 7, "site=South": 19}, ("site",), 0.05)
    check_groups({}, (), 0.05)
    with pytest.raises(
        InputError, match=r"no group has enough.*site=North has 7 slides, 19 are needed.*leave --by out"
    ):
        check_groups({"site=North": 7, "site=South": 1}, ("site",), 0.05)
    with pytest.raises(InputError, match="no slide of the manifest has a site and a scanner"):
        check_groups({}, ("site", "scanner"), 0.05)
    with pytest.raises(InputError, match="too many"):
        check_groups({f"site={i}": 19 for i in range(MAX_GROUPS + 1)}, ("site",), 0.05)


def test_what_a_calibration_promises() -> None:
    told = stated_rates(_calibration())
    assert told["false_alarm_rate"] == pytest.approx(1 / 13)
    assert told["groups"] == {"site=North": {
        "slides": 9, "false_alarm_rate": 0.1, "false_alarm_low": false_alarm_interval(0.1, 9)[0],
        "false_alarm_high": false_alarm_interval(0.1, 9)[1],
    }}  # fmt: skip
    assert told["judged_by_the_pool"] == [
        "site=South has 3 slides, 9 are needed at alpha 0.1: 6 more; it is judged by the pool"
    ]
    assert "groups" not in stated_rates(_calibration(group_by=(), groups=()))


def test_what_by_names() -> None:
    assert kinds_of(" stain ,site,site") == ("site", "stain")
    assert kinds_of("") == ()
    with pytest.raises(InputError, match="no colour; groups can be made by site, scanner, stain"):
        kinds_of("site,colour")


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"scores": (2.0, 1.0)}, "ascending"),
        ({"groups": [{"values": {"site": "North"}, "scores": (2.0, 1.0)}]}, "ascending"),
        ({"groups": [{"values": {"site": "North"}, "scores": (float("inf"),)}]}, "finite"),
        ({"groups": [{"values": {"site": "North"}, "scores": ()}]}, "at least 1"),
        ({"groups": [{"values": {"site": ""}, "scores": (1.0,)}]}, "at least 1 character"),
        ({"groups": [{"values": {"site": "x" * (MAX_NAME + 1)}, "scores": (1.0,)}]}, "at most 200"),
        ({"groups": [{"values": {"scanner": "A"}, "scores": (1.0,)}]}, "values of group_by"),
        ({"groups": [{"values": {"colour": "A"}, "scores": (1.0,)}]}, "colour"),
        ({"groups": [{"values": {}, "scores": (1.0,)}]}, "at least 1"),
        ({"groups": [{"values": {"site": "N"}, "scores": (1.0,)}] * 2}, "there twice"),
        ({"groups": [{"values": {"site": "N"}, "scores": tuple(map(float, range(13)))}]}, "more slides"),
        ({"group_by": ("site", "site")}, "twice"),
        ({"group_by": ("colour",)}, "colour|site"),
        ({"groups": [{"values": {"site": f"{i}"}, "scores": (1.0,)} for i in range(MAX_GROUPS + 1)]}, "at most 1000"),
        ({"id": "x" * 201}, "at most 200"),
    ],
)
def test_calibrations_that_cannot_be_are_refused(odd: dict[str, Any], message: str) -> None:
    _calibration()
    with pytest.raises(ValidationError, match=message):
        _calibration(**odd)


def test_the_id_changes_with_what_decides_and_with_nothing_else() -> None:
    plain = _calibration()
    same = [_calibration(id="d"), _calibration(made="2026"), _calibration(salt="a", slides=("b",))]
    assert {calibration_id(each) for each in same} == {calibration_id(plain)}
    groups = [{"values": {"site": "North"}, "scores": (*NORTH[:-1], 99.0)}]
    others = [
        _calibration(alpha=0.2), _calibration(scores=(*POOL[:-1], 99.0)), _calibration(group_by=(), groups=()),
        _calibration(groups=groups), _calibration(smoothed=True), _calibration(bundle_id="other"),
        _calibration(aggregation=AggregationConfig(top_fraction=0.5)), _calibration(tile_ceiling=2.0),
    ]  # fmt: skip
    assert len({calibration_id(each) for each in (plain, *others)}) == 9
