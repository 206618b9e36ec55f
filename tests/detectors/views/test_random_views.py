"""Views of tiles: whose they are, what is drawn, and within which bounds."""

import numpy as np
import pytest
import torch
from networks_watch import smooth_pictures
from torch import Tensor
from torch.nn import functional as F

from uadray.detectors.views.random_views import Config, cut, restained, view_of
from uadray.tiles import stain_augment

pytestmark = pytest.mark.usefixtures("torch_alone")

PLAIN = Config(view_px=16, zoom=1.0, stain=0, blur_px=0, noise_levels=0, grey_share=0)


def _symmetries(x: Tensor) -> list[Tensor]:
    """The eight of a square, of x [3, h, w]."""
    return [torch.rot90(y, turns, (1, 2)) for y in (x, x.flip(2)) for turns in range(4)]


def test_a_view_that_is_not_resized_is_a_square_of_its_own_tile() -> None:
    x = torch.rand(6, 3, 19, 19) * 2 - 1
    for tile, view in zip(x, view_of(x, PLAIN), strict=True):
        squares = [tile[:, i : i + 16, j : j + 16] for i in range(4) for j in range(4)]
        distances = [(turned - view).abs().max().item() for square in squares for turned in _symmetries(square)]
        assert min(distances) < 1e-5


def test_all_eight_symmetries_are_drawn() -> None:
    tile = torch.rand(3, 16, 16) * 2 - 1
    views = view_of(tile.expand(200, -1, -1, -1), PLAIN)
    counts = [int(((views - turned).abs().amax((1, 2, 3)) < 1e-5).sum()) for turned in _symmetries(tile)]
    assert sum(counts) == 200
    assert min(counts) > 8  # of 25 expected


def test_the_zoom_is_drawn_within_its_bounds() -> None:
    """Of a tile whose colour is its column, a view's colours span what it shows."""
    column = ((torch.arange(64) + 0.5) / 32 - 1).expand(3, 64, 64)
    views = cut(column.expand(400, -1, -1, -1), view_px=32, zoom=1.5)
    spans = views.amax((1, 2, 3)) - views.amin((1, 2, 3))
    widths_px = spans * 32 * 32 / 31
    assert widths_px.min() > 32 / 1.5 - 0.2
    assert widths_px.max() < 32 * 1.5 + 0.2
    assert ((widths_px - 32).abs() < 1e-2).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert widths_px.std() > 3
    assert views.abs().max() <= 1, "nothing beyond the tile is shown"


def test_an_enlarged_view_is_the_enlarged_tile() -> None:
    """As `encoders.enlarged` shows whole tiles to the same encoder."""
    x = smooth_pictures(n=4, side_px=16)
    expected = F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False).clamp(-1, 1)
    for tile, view in zip(expected, view_of(x, PLAIN, enlarged=2), strict=True):
        assert min((turned - view).abs().max().item() for turned in _symmetries(tile)) < 1e-4


def test_the_same_seed_gives_the_same_views_and_each_tile_others() -> None:
    x = smooth_pictures(n=4, side_px=24)
    views = []
    for _ in range(2):
        torch.manual_seed(3)
        views.append(view_of(x, Config(view_px=16)))
    torch.testing.assert_close(views[0], views[1], rtol=0, atol=0)
    assert (view_of(x, Config(view_px=16)) - views[0]).abs().amax((1, 2, 3)).min() > 0.05
    same = view_of(x[:1].expand(4, -1, -1, -1), Config(view_px=16))
    assert (same[1:] - same[:1]).abs().amax((1, 2, 3)).min() > 0.05
    assert views[0].is_contiguous(memory_format=torch.channels_last)
    assert views[0].abs().max() <= 1


def test_amounts_of_stain_are_those_of_the_augmentation_of_bytes() -> None:
    """With the same numbers drawn: a torch generator stands for numpy's."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(20, 250, (3, 12, 12, 3), dtype=np.uint8)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    torch.manual_seed(0)
    found = restained(x, 0.2)
    torch.manual_seed(0)
    drawn = [torch.rand(9).view(3, 3).double().numpy() for _ in range(2)]

    class Drawn:
        """Gives what torch has drawn."""

        def uniform(self, low: float, high: float, size: tuple[int, int]) -> np.ndarray:
            return drawn.pop(0) * (high - low) + low

    expected = stain_augment.augment(pixels, Drawn(), sigma_alpha=0.2, sigma_beta=0.2)  # type: ignore[arg-type]
    levels = (found.permute(0, 2, 3, 1) + 1) * 127.5
    assert (levels - torch.from_numpy(expected)).abs().max() < 4, "the stains' colours have two decimals there"
    assert (found - x).abs().mean() > 0.05


def test_glass_stays_white() -> None:
    assert restained(torch.ones(8, 3, 4, 4), 0.2).min() > 0.999


def test_some_views_are_grey_and_some_are_blurred() -> None:
    x = smooth_pictures(n=1, side_px=16).expand(200, -1, -1, -1)
    config = PLAIN.model_copy(update={"grey_share": 0.3})
    views = view_of(x, config)
    is_grey = (views.amax(1) - views.amin(1)).amax((1, 2)) < 1e-6
    assert is_grey.float().mean().item() == pytest.approx(0.3, abs=0.1)
    noise = (torch.rand(1, 3, 16, 16) * 2 - 1).expand(200, -1, -1, -1)
    blurred = view_of(noise, PLAIN.model_copy(update={"blur_px": 1.0}))
    contrast = blurred.std((1, 2, 3)) / noise[0].std()
    assert (contrast > 0.999).float().mean().item() == pytest.approx(0.6, abs=0.1)  # half, and what is below 0.2 px
    assert contrast.min() < 0.6


def test_the_noise_is_within_its_bound() -> None:
    x = torch.zeros(200, 3, 16, 16)
    deviations = view_of(x, PLAIN.model_copy(update={"noise_levels": 8.0})).std((1, 2, 3)) * 127.5
    assert deviations.max() < 8.8
    assert deviations.mean().item() == pytest.approx(4, abs=0.6)
