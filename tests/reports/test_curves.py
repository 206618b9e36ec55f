"""Curves stand where their values are, in the order of validations, losses and the rest."""

import re

import pytest

from uadray.reports.curves import HEIGHT_PX, WIDTH_PX, Series, curve_svg, nice_ticks, series_of

LINES = [
    {"epoch": 0, "step": 5, "phase": "gan", "images_shown": 40, "seconds": 2.0, "tiles_per_second": 20.0, "loss": 4.0},
    {"epoch": 1, "step": 10, "phase": "gan", "images_shown": 80, "seconds": 2.0, "tiles_per_second": 20.0, "loss": 1.0,
     "r1": 0.5, "frechet": 9.0, "validated": ["frechet"], "diversity": 0.5, "p": None, "nan": float("nan")},
]  # fmt: skip


def test_the_curves_of_a_run() -> None:
    assert series_of(LINES) == [
        Series("frechet", [(80, 9)]), Series("loss", [(40, 4), (80, 1)]), Series("r1", [(80, 0.5)]),
        Series("tiles_per_second", [(40, 20), (80, 20)]), Series("diversity", [(80, 0.5)]),
    ]  # fmt: skip


def test_points_stand_where_their_values_are() -> None:
    svg = curve_svg("<loss>", [Series("a", [(40, 4.0), (80, 1.0)]), Series("none", []), Series("b", [(60, 2.5)])])
    ((points,),) = (re.findall(r'points="([^"]+)"', svg),)  # of the one that has more than one
    ticks = nice_ticks(1.0, 4.0)
    span = ticks[-1] - ticks[0]
    expected = [(x / 80 * WIDTH_PX, (ticks[-1] - y) / span * HEIGHT_PX) for x, y in ((40, 4.0), (80, 1.0))]
    found = [tuple(map(float, point.split(","))) for point in points.split()]
    assert found == [pytest.approx(point, abs=0.06) for point in expected]
    assert svg.count("<circle") == 2
    assert "&lt;loss&gt;" in svg
    assert "80 images" in svg


@pytest.mark.parametrize(("low", "high"), [(0.13, 0.77), (-3.2, 11.0), (2.0, 2.0), (0.0, 0.0), (-1e-7, 1e6), (5, 1e9)])
def test_ticks_are_around_all_values(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low + 1e-9 * (high - low)
    assert ticks[-1] >= high * (1 - 1e-9)
    assert 2 <= len(ticks) <= 6
