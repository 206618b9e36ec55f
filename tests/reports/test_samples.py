"""The page of samples says what it shows and escapes what it is given."""

import numpy as np
import pytest

from uadray.reports.pictures import sample_grid
from uadray.reports.samples import WORDS, Shown, samples_page


@pytest.mark.parametrize("shown", list(WORDS))
def test_the_page_shows_the_pictures_in_their_order(shown: Shown) -> None:
    page = samples_page("a <b>", ["epoch_0002.jpg", "epoch_0001.jpg"], shown)
    assert "<h1>Training: a &lt;b&gt;</h1>" in page
    assert page.index('src="samples/epoch_0002.jpg"') < page.index('src="samples/epoch_0001.jpg"')
    assert "<figcaption>Epoch 2</figcaption>" in page
    assert WORDS[shown] in page


def test_a_name_cannot_leave_its_attribute() -> None:
    page = samples_page("t", ['"><script>.jpg'], "tiles")
    assert "<script>" not in page


def test_tiles_without_a_picture_are_shown_alone() -> None:
    x = np.random.default_rng(0).integers(0, 255, (10, 5, 4, 3), dtype=np.uint8)
    alone, pairs = sample_grid(x, None), sample_grid(x, x)
    assert alone.shape == (2 * (5 + 4) - 4, 8 * (4 + 4) - 4, 3)
    assert pairs.shape == (2 * (10 + 4) - 4, 8 * (4 + 4) - 4, 3)
    np.testing.assert_array_equal(alone[:5, :4], x[0])
    np.testing.assert_array_equal(alone[9:14, 8:12], x[9])
