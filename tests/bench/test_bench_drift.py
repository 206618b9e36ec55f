"""`bench drift`: what it says of delays is counted right, and its slides change as far as they are told to."""

import math
from pathlib import Path

import numpy as np
import pytest

from uadray.bench.detector_data import read_label
from uadray.bench.drift import _delays, _group, _share, run
from uadray.bench.drift_slides import BLURS_UM, STRENGTHS, _changes, between, measures_of
from uadray.bench.stain_shift import FADED, blue_tiles
from uadray.decisions.drift import GroupDrift
from uadray.errors import InputError
from uadray.tiles.images import Pixels
from uadray.tiles.stain_fit import fit_macenko


def _called(at: int | None) -> GroupDrift:
    return GroupDrift("a", "b", 100, 60, "group", {}, 2.7, at, None)


def test_delays_count_from_the_change() -> None:
    ends = [*range(41, 60), None, 12]
    figures = _delays(map(_called, ends), 40)
    assert figures == {"median": 11, "p95": None, "missed": 1, "too_early": 1}
    assert _delays(map(_called, range(41, 61)), 40)["p95"] == 20


def test_a_limit_counts_the_streams_that_reach_it() -> None:
    assert _share([math.log10(500), math.log10(499), 0.0], 0.01) == 1


def test_streams_are_compared_with_their_calibration() -> None:
    normals = [{"green": i / 60} for i in range(60)]
    same = _group(normals, [{"green": (7 * i % 31) / 31} for i in range(31)], "same")
    other = _group(normals, [{"green": 2 + i / 60} for i in range(30)], "other")
    assert (same.n_normals, same.reference, same.detected_at) == (60, "group", None)
    assert (other.measure, other.direction, other.since) == ("green", "higher", 1)


def test_a_part_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="simulated, tissue, speed"):
        run(only=["tissues"])


@pytest.fixture(scope="module")
def tiles(data_dir: Path) -> Pixels:
    tiles = read_label(str(data_dir / "pcam" / "valid.zip"), "normal")[::5]
    return tiles[~blue_tiles(tiles)][:120]


def test_a_stain_on_the_way_lies_between() -> None:
    own = FADED.model_copy(update={"maxima": (1.0, 2.0), "haematoxylin": (1.0, 0.0, 0.0)})
    assert between(own, FADED, 1.0).matrix == pytest.approx(FADED.matrix)
    assert between(own, FADED, 0.0).matrix == pytest.approx(own.matrix)
    half = between(own, FADED, 0.5)
    assert half.maxima == pytest.approx(((1 + FADED.maxima[0]) / 2, (2 + FADED.maxima[1]) / 2))


def test_slides_change_by_strength(tiles: Pixels) -> None:
    changes = _changes(fit_macenko(tiles), FADED)
    slides = {name: measures_of(change(tiles)) for name, change in changes.items()}
    saturation = [slides[f"faded_{how}"]["saturation"] for how in STRENGTHS] + [slides["normal"]["saturation"]]
    assert (np.diff(saturation) > 0.01).all(), "the less faded, the more saturated"
    focus = [slides["normal"]["focus"]] + [slides[f"blur_{sigma_um:g}_um"]["focus"] for sigma_um in BLURS_UM]
    assert (np.diff(focus) < 0).all()
