"""Decisions against a calibration: which groups drift, in which measure and which way, and what is left out."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from uadray.decisions.aggregation import AggregationConfig
from uadray.decisions.conformal import MAX_NAME, Calibration, NormalSlide
from uadray.decisions.drift import MAX_GROUPS, OTHER, OWN_REFERENCE, drift, in_words
from uadray.decisions.slide_measures import MEASURES


def _measures(rng: np.random.Generator, **moved: float) -> dict[str, float | None]:
    return {name: float(rng.normal(0.5 + 0.1 * moved.get(name, 0), 0.1)) for name in MEASURES}


def _calibration(
    n: int, *, site: str | None = "a", scanner: str | None = "s", seed: int = 0, **moved: float
) -> Calibration:
    rng = np.random.default_rng(seed)
    normals = tuple(NormalSlide(site=site, scanner=scanner, **_measures(rng, **moved)) for _ in range(n))
    return Calibration(
        id=f"c{seed}", bundle_id="b", aggregation=AggregationConfig(), alpha=0.1, scores=(0.0,), tile_median=0.0,
        tile_p99=1.0, tile_high=1.0, normals=normals,
    )  # fmt: skip


def _rows(n: int, *, site: str | None = "a", scanner: str | None = "s", seed: int = 1, **moved: float) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [
        {
            "slide_id": f"{site}-{scanner}-{seed}-{i:04d}", "state": "scored", "note": None, "site": site,
            "scanner": scanner, "decided_at": f"2026-11-26T10:{i // 60:02d}:{i % 60:02d}.000Z",
            **_measures(rng, **moved),
        }
        for i in range(n)
    ]  # fmt: skip


_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("slide_id", "state", "note", "site", "scanner", "decided_at")]
    + [(name, pa.float64()) for name in MEASURES]
)


def _table(rows: list[Any]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def test_a_shifted_stain_is_named_with_its_direction_and_beginning() -> None:
    rows = _rows(40) + _rows(30, seed=2, saturation=-4)
    rows = [row | {"decided_at": f"2026-11-26T{i:06d}"} for i, row in enumerate(rows)]
    (group,) = drift(_table(rows), _calibration(40))
    assert (group.site, group.scanner, group.reference, group.n_normals, group.n_slides) == ("a", "s", "group", 40, 70)
    assert (group.measure, group.direction) == ("saturation", "lower")
    assert group.detected_at is not None
    assert group.since is not None
    assert group.medians is not None
    assert 41 <= group.detected_at <= 50
    assert abs(group.since - 41) <= 2
    assert group.medians[1] < group.medians[0]
    assert group.evidence["saturation"] >= group.limit == math.log10(500)
    assert max(value for name, value in group.evidence.items() if name != "saturation") < group.limit
    words = in_words(group)
    assert words.startswith(
        f"site a, scanner s: saturation lower than the calibration's since slide {group.since} of 70"
    )
    assert words.endswith("calibrate anew")


def test_slides_like_the_calibrations_are_no_drift() -> None:
    (group,) = drift(_table(_rows(200)), _calibration(60))
    assert (group.detected_at, group.measure, group.since) == (None, None, None)
    assert set(group.evidence) == set(MEASURES)
    assert min(group.evidence.values()) >= 0
    assert in_words(group) == "site a, scanner s: 200 slides like the calibration's"


def test_groups_are_told_apart() -> None:
    rows = _rows(30) + _rows(30, site="b", seed=2, green=5)
    groups = {group.site: group for group in drift(_table(rows), _calibration(60))}
    assert groups["a"].detected_at is None
    assert groups["b"].measure == "green"
    assert "which has fewer than 20 slides of this group" in in_words(groups["b"])
    assert (groups["a"].reference, groups["b"].reference) == ("group", "pool")


@pytest.mark.parametrize(("own", "reference"), [(OWN_REFERENCE, "group"), (OWN_REFERENCE - 1, "pool")])
def test_a_group_with_few_calibration_slides_is_compared_with_all(own: int, reference: str) -> None:
    others = _calibration(30, site="b", seed=3, saturation=8).normals
    calibration = _calibration(own)
    (group,) = drift(_table(_rows(30)), calibration.model_copy(update={"normals": calibration.normals + others}))
    assert (group.reference, group.n_normals) == (reference, own if reference == "group" else own + 30)


def test_what_a_manifest_does_not_say_is_a_group_of_its_own() -> None:
    (group,) = drift(_table(_rows(5, site=None, scanner="")), _calibration(30, site=None, scanner=None))
    assert (group.site, group.scanner, group.reference) == ("unknown", "unknown", "group")


def test_groups_beyond_the_first_are_one() -> None:
    rows = [row for i in range(MAX_GROUPS + 7) for row in _rows(2, site=f"site{i}", seed=i + 10)]
    rows = [row | {"decided_at": f"2026-11-26T{i:06d}"} for i, row in enumerate(rows)]
    groups = drift(_table(rows), _calibration(30))
    assert len(groups) == MAX_GROUPS + 1
    (rest,) = [group for group in groups if (group.site, group.scanner) == OTHER]
    assert (rest.n_slides, rest.reference) == (14, "pool")


def test_slides_that_say_nothing_new_are_left_out() -> None:
    rows = _rows(20)
    rows += [row | {"note": "calibration"} for row in _rows(9, seed=3, green=9)]
    rows += [row | {"state": "not_assessable"} for row in _rows(9, seed=4, focus=9)]
    table = _table(rows).append_column("calibration_id", pa.array(["c0", None] * (len(rows) // 2)))
    (group,) = drift(table, _calibration(30))
    assert (group.n_slides, group.detected_at) == (20, None)
    assert drift(table, _calibration(30, seed=7))[0].n_slides == 10, "the others were decided by another calibration"


def test_measures_that_are_missing_are_left_out_and_counted() -> None:
    rows = _rows(40)
    for row in rows[::2]:
        row["focus"] = None
    for row in rows:
        row["green"] = math.nan
    rows[7]["saturation"] = math.inf
    (group,) = drift(_table(rows), _calibration(30))
    assert group.missing == dict.fromkeys(MEASURES, 0) | {"focus": 20, "green": 40, "saturation": 1}
    assert set(group.evidence) == set(MEASURES) - {"green"}


def test_the_slide_is_counted_among_all_of_its_group_where_a_measure_is_missing() -> None:
    rows = _rows(60, saturation=6)
    for row in rows[:30]:
        row["saturation"] = None
    (group,) = drift(_table(rows), _calibration(60))
    assert group.detected_at is not None
    assert (group.since, group.detected_at <= 38) == (31, True)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_tiny_calibrations_call_no_drift(n: int) -> None:
    (group,) = drift(_table(_rows(6, saturation=9)), _calibration(n))
    assert group.detected_at is None
    assert (group.evidence == {}) == (n == 0)


def test_a_calibration_of_an_older_version_cannot_tell() -> None:
    (group,) = drift(_table(_rows(6)).drop_columns([*MEASURES, "decided_at"]), _calibration(30))
    assert (group.evidence, group.detected_at) == ({}, None)
    assert "cannot be told" in in_words(group)


def test_no_slides_are_no_groups() -> None:
    assert drift(_table([]), _calibration(30)) == []


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows = _rows(30) + _rows(30, site="b", seed=2)
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    assert drift(_table(rows), _calibration(40)) == drift(_table(shuffled), _calibration(40))


def test_more_slides_take_nothing_back() -> None:
    rows = _rows(60, tissue_share=3)
    groups = [drift(_table(rows[:n]), _calibration(40))[0] for n in range(1, 61)]
    for name in MEASURES:
        values = [group.evidence[name] for group in groups]
        assert values == sorted(values)
    detected = [group.detected_at for group in groups]
    first = next(at for at in detected if at is not None)
    assert detected == [None] * (first - 1) + [first] * (61 - first)


def test_many_anomalous_slides_are_not_blamed_on_the_calibration_alone() -> None:
    (group,) = drift(_table(_rows(30, tile_score_median=6)), _calibration(60))
    assert in_words(group).endswith("look at the slides, and calibrate anew unless many of them are abnormal")


def test_names_of_a_manifest_are_short_and_printable_in_words() -> None:
    site = "x\n\x1b[31m" + "y" * 500
    (group,) = drift(_table(_rows(3, site=site)), _calibration(30, site=site[:MAX_NAME]))
    assert (group.site, group.reference) == (site[:MAX_NAME], "group")
    assert in_words(group).isprintable()
    assert len(in_words(group)) < 200


def test_one_slide_of_each_patient_counts() -> None:
    """In each group, the first that was decided."""
    rows = [row | {"patient": f"p{i // 4}"} for i, row in enumerate(_rows(40))]
    rows += [row | {"patient": "p0"} for row in _rows(3, site="b", seed=2)]
    rows += [row | {"patient": None} for row in _rows(5, site="c", seed=3)]
    table = _table(rows).append_column("patient", pa.array([row["patient"] for row in rows]))
    groups = drift(table, _calibration(40))
    assert [(group.site, group.n_slides, group.n_alike) for group in groups] == [
        ("a", 10, 30),
        ("b", 1, 2),
        ("c", 5, 0),
    ]
    first = drift(_table(rows[:40:4]), _calibration(40))
    assert groups[0].evidence == first[0].evidence
