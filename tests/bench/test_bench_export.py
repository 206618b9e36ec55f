"""The benchmark of exports runs, small, and tells what it measured."""

import pytest

from uadray.bench.export import GOALS, run
from uadray.errors import InputError


def test_figures() -> None:
    figures = run(only=["wsinfer-csv"], slides=3, tiles=25, large=400)
    assert (figures["slides"], figures["tiles"]) == (3, 25)
    of_format = figures["formats"]["wsinfer-csv"]
    assert 0 < of_format["slides_per_s"] < 3000
    assert 20 < of_format["peak_mb"] < 2000
    assert of_format["mb_a_slide"] == 0.001
    assert figures["geojson_mb_of"].keys() == {"lesions", "scattered", "chessboard"}
    assert figures.keys() >= GOALS.keys() | {"goals", "goals_met"}


def test_formats_that_there_are_not() -> None:
    with pytest.raises(InputError, match="no 'pdf'; there are: wsinfer-csv"):
        run(only=["pdf"])
