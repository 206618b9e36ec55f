"""Tables by site, scanner, stain and amount of tissue."""

import pytest
from judged_slides import judged

from uadray.evaluation.intervals import exact_interval
from uadray.evaluation.subgroups import MOST_GROUPS, subgroups


def test_by_site_by_hand() -> None:
    site = ["North", "South", "North", "North", "South", "North", "South", None]
    tables = subgroups(judged("AANannna", site=site))
    assert list(tables) == ["site"], "nothing is said of scanner and stain, and of tissue"
    rows = {row["group"]: row for row in tables["site"]}
    assert list(rows) == ["North", "South", "not said"]
    north = rows["North"]  # A, N, a, n
    assert (north["slides"], north["n_normal"], north["n_anomalous"]) == (4, 2, 2)
    assert (north["auroc"], north["found"], north["false_alarms"]) == (0.75, 1, 1)
    assert north["found_ci95"] == exact_interval(1, 2)
    assert north["auroc_ci95"][0] < 0.75 < north["auroc_ci95"][1]
    assert (rows["not said"]["auroc"], rows["not said"]["auroc_ci95"]) == (None, None), "one class"
    assert rows["not said"]["false_alarms_ci95"] is None


def test_by_amount_of_tissue_in_thirds() -> None:
    table = subgroups(judged("AaNann", n_tiles=[10, 20, 30, 40, 50, 60]))["tissue"]
    assert [row["group"] for row in table] == ["1: up to 27 tissue tiles", "2: up to 43", "3: more than 43"]
    assert [row["slides"] for row in table] == [2, 2, 2]
    assert [row["trivial"] for row in table] == [None, 1.0, None]


def test_many_sites_are_told_in_one() -> None:
    n = 3 * MOST_GROUPS
    site = [f"big{i % MOST_GROUPS}" if i < 2 * MOST_GROUPS else f"small{i}" for i in range(n)]
    rows = subgroups(judged("An" * (n // 2), site=site))["site"]
    assert len(rows) == MOST_GROUPS + 1
    assert (rows[-1]["group"], rows[-1]["slides"]) == ("others", MOST_GROUPS)


def test_one_group_is_no_table() -> None:
    assert subgroups(judged("Anan", site=["North"] * 4, n_tiles=[7] * 4)) == {}


@pytest.mark.parametrize("site", ["<b>", "a" * 300])
def test_names_are_taken_as_they_are(site: str) -> None:
    assert site in [row["group"] for row in subgroups(judged("Anan", site=[site, "x", "x", site]))["site"]]
