"""Shifted stains: tiles told apart by stain, and copies that have the stain they were brought to."""

from pathlib import Path

import numpy as np
import pytest

from uadray.bench.detector_data import read_label
from uadray.bench.stain_shift import FADED, blue_tiles, shifted
from uadray.tiles.images import Pixels
from uadray.tiles.stain_fit import fit_macenko

PINK, BLUE, GLASS = (220, 120, 170), (120, 90, 200), (240, 240, 240)


@pytest.fixture(scope="module")
def tiles(data_dir: Path) -> Pixels:
    return read_label(str(data_dir / "pcam" / "valid.zip"), "normal")[::10]


def test_tiles_are_told_apart_by_how_blue_their_tissue_is() -> None:
    colours = [PINK, BLUE, PINK, PINK, BLUE]
    painted = np.stack([np.full((8, 8, 3), colour, np.uint8) for colour in colours])
    painted[:, :4] = GLASS
    assert blue_tiles(painted).tolist() == [False, True, False, False, True]


def test_copies_have_the_stain_they_were_brought_to(tiles: Pixels) -> None:
    is_blue = blue_tiles(tiles)
    assert 0.05 < is_blue.mean() < 0.5
    copies = shifted(tiles)
    assert set(copies) == {"swapped", "faded"}
    other, own = fit_macenko(tiles[is_blue]), fit_macenko(tiles[~is_blue])
    for name, reference in (("swapped", other), ("faded", FADED)):
        stain = fit_macenko(copies[name][~is_blue])
        moved, left = (np.abs(each.matrix - reference.matrix).max() for each in (own, stain))
        assert left < moved / 2, "the pixels of a fit are chosen by their colour: it does not give the reference itself"
    assert (shifted(tiles)["swapped"] == copies["swapped"]).all()
