"""Views with enlarged nuclei: the synthesis by hand on one tile, lengths in micrometres, and no trace of the zoom."""

import math

import cv2
import numpy as np
import pytest
import torch
from networks_watch import smooth_pictures
from nuclei_tiles import spots
from torch import Tensor

from uadray.detectors.views import enlarged as views
from uadray.detectors.views.scanners import blurred

pytestmark = pytest.mark.usefixtures("torch_alone")


@pytest.mark.parametrize("mpp", [0.972, 0.5])
def test_tiles_rich_in_nuclei_and_pink_ones_are_told_apart_at_any_mpp(mpp: float) -> None:
    side_px = round(93.3 / mpp)
    rich = spots(2, side_px, mpp=mpp)
    pink = spots(2, side_px, mpp=mpp, diameter_um=2.5, spacing_um=25)
    glass = torch.full((1, 3, side_px, side_px), 0.9)
    is_rich, is_pink = views.tissue_kinds(torch.cat([rich, pink, glass]), mpp=mpp)
    assert is_rich.tolist() == [True, True, False, False, False]
    assert is_pink.tolist() == [False, False, True, True, False]


def test_magnified_about_the_centre_is_what_opencv_makes_of_the_same_blur() -> None:
    """One tile by hand: blurred to the sharpness that is left to give, then magnified; up to turns and mirrors."""
    torch.manual_seed(0)
    x, zoom, sharpness_um, mpp = smooth_pictures(1, 96), 1.8, 1.1, 0.972
    ours = views.magnified(
        x, torch.full((1, 2), zoom), sharpness_um=torch.tensor([sharpness_um]), mpp=mpp
    )[0].numpy().transpose(1, 2, 0)  # fmt: skip
    sigma_px = math.sqrt((sharpness_um / zoom) ** 2 - (0.5 * mpp) ** 2) / mpp
    source = cv2.GaussianBlur(x[0].numpy().transpose(1, 2, 0), (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT_101)
    centre = (96 - 1) / 2
    matrix = np.array([[1 / zoom, 0, centre - centre / zoom], [0, 1 / zoom, centre - centre / zoom]])
    by_hand = cv2.warpAffine(source, matrix, (96, 96), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
    turned = [np.rot90(flipped, k) for flipped in (by_hand, by_hand[:, ::-1]) for k in range(4)]
    assert min(np.abs(ours - each).max() for each in turned) < 0.02


def _diameter_um(x: Tensor, *, mpp: float) -> float:
    """Of the dark round thing in the middle of a tile."""
    area_px = float((x[0, 0] < 0.2).sum())
    return 2 * math.sqrt(area_px / math.pi) * mpp


@pytest.mark.parametrize("mpp", [0.972, 0.5, 0.25])
def test_nuclei_grow_by_the_zoom_in_micrometres(mpp: float) -> None:
    torch.manual_seed(0)
    side_px = round(93.3 / mpp)
    y, x = (np.mgrid[:side_px, :side_px] - (side_px - 1) / 2) * mpp
    tile = torch.tensor(np.where(np.hypot(y, x) < 10, -0.5, 0.9), dtype=torch.float32).expand(1, 3, -1, -1)
    grown = views.magnified(tile, torch.full((1, 2), 1.6), sharpness_um=torch.tensor([1.0]), mpp=mpp)
    assert _diameter_um(grown, mpp=mpp) == pytest.approx(1.6 * _diameter_um(tile, mpp=mpp), rel=0.04)


def test_a_view_is_as_sharp_whatever_its_zoom() -> None:
    """An edge is as wide in a view of any zoom."""
    torch.manual_seed(0)
    edge = torch.full((1, 3, 96, 96), -0.8)
    edge[..., 48:] = 0.8
    edge = blurred(edge, torch.tensor([0.5]))  # an image is as sharp as half a pixel
    widths = []
    for zoom in (0.8, 1.0, 1.4, 2.2):
        view = views.magnified(edge, torch.full((1, 2), zoom), sharpness_um=torch.tensor([1.1]), mpp=0.972)
        steepest = max(view.diff(dim=axis).abs().max() for axis in (2, 3))
        widths.append(1.6 / (float(steepest) * math.sqrt(2 * math.pi)))
    assert widths == pytest.approx([1.1 / 0.972] * 4, rel=0.09)
    assert max(widths) / min(widths) < 1.06


def test_spindle_nuclei_are_stretched_along_one_axis() -> None:
    torch.manual_seed(1)
    y, x = np.mgrid[:96, :96] - 47.5
    tile = torch.tensor(np.where(np.hypot(y, x) < 10, -0.5, 0.9), dtype=torch.float32).expand(1, 3, -1, -1)
    view = views.magnified(tile, torch.tensor([[2.0, 1.0]]), sharpness_um=torch.tensor([1.0]), mpp=0.972)[0, 0]
    points = np.argwhere(view.numpy() < 0.2)
    short, long = np.sqrt(np.linalg.eigvalsh(np.cov(points.T)))
    assert long / short == pytest.approx(2.0, rel=0.05)


def test_blobs_cover_what_they_should_with_soft_edges() -> None:
    torch.manual_seed(0)
    masks = views.soft_blobs(64, (96, 96), mpp=0.972, device=torch.device("cpu"))
    assert masks.shape == (64, 1, 96, 96)
    area = (masks > 0.5).float().mean((1, 2, 3))
    assert 0.15 < area.min() < 0.3
    assert 0.6 < area.max() < 0.75
    between = ((masks > 0.1) & (masks < 0.9)).float().mean()
    assert 0.05 < between < 0.5


def test_views_of_a_batch_come_in_their_proportions() -> None:
    torch.manual_seed(0)
    tiles = torch.cat([spots(6, 96, mpp=0.972), spots(4, 96, mpp=0.972, diameter_um=2.5, spacing_um=25)])
    made = views.make_views(tiles, mpp=0.972, zoom=(1.4, 2.2))
    expected = [kind for kind, count in views.counts(10).items() for _ in range(count)]
    assert list(made.kinds) == expected
    assert made.x.shape == (len(expected), 3, 96, 96)
    assert made.x.abs().max() <= 1
    by_kind = dict(zip(made.kinds, made.mask.flatten(1).mean(1).tolist(), strict=True))
    assert by_kind["normal"] == by_kind["glass"] == by_kind["enlarged_pink"] == by_kind["spindle"] == 0
    assert by_kind["enlarged"] == 1
    assert 0.1 < by_kind["pasted"] < 0.8


def test_without_pink_tiles_there_are_only_normal_views() -> None:
    made = views.make_views(spots(8, 96, mpp=0.972), mpp=0.972, zoom=(1.4, 2.2))
    assert set(made.kinds) == {"normal", "glass"}


def test_the_same_seed_gives_the_same_views() -> None:
    tiles = torch.cat([spots(6, 96, mpp=0.972), spots(4, 96, mpp=0.972, diameter_um=2.5, spacing_um=25)])
    made = []
    for _ in range(2):
        torch.manual_seed(5)
        made.append(views.make_views(tiles, mpp=0.972, zoom=(1.4, 2.2)).x)
    assert torch.equal(*made)
