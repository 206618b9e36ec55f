"""Canny's edges equal OpenCV's, a plain reference's, and do not depend on the batch."""

import cv2
import numpy as np
import torch

from uadray.detectors.inversion.edges import canny, edge_difference, edges, gradients, luminance, smoothed


def blots(n: int, side: int = 40, *, seed: int = 0) -> torch.Tensor:
    coarse = torch.rand(n, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1) * 2 - 1


def test_edges_equal_opencv_on_its_own_gradients() -> None:
    """On whole numbers, where both compute the same: OpenCV takes gradients of 16 bits."""
    maps = luminance(blots(8, seed=1)).mul(255).round()
    along_x, along_y = ((g * 8).round() for g in gradients(maps))
    ours = edges(along_x, along_y, low=60.0, high=140.0)
    found = 0
    for number in range(len(maps)):
        dx, dy = (g[number].numpy().astype(np.int16) for g in (along_x, along_y))
        theirs = cv2.Canny(dx, dy, 60, 140, L2gradient=True) > 0
        np.testing.assert_array_equal(ours[number].numpy(), theirs)
        found += int(theirs.sum())
    assert found > 300


def test_gradients_and_smoothing_equal_opencv() -> None:
    maps = luminance(blots(2))
    along_x, along_y = gradients(maps)
    soft = smoothed(maps, 1.0)
    for number, picture in enumerate(maps.numpy()):
        for ours, order in ((along_x, (1, 0)), (along_y, (0, 1))):
            theirs = cv2.Sobel(picture, cv2.CV_32F, *order, scale=1 / 8, borderType=cv2.BORDER_REPLICATE)
            np.testing.assert_allclose(ours[number], theirs, atol=1e-6)
        theirs = cv2.GaussianBlur(picture, (7, 7), 1.0, borderType=cv2.BORDER_REPLICATE)
        np.testing.assert_allclose(soft[number], theirs, atol=1e-6)
    grey = cv2.cvtColor(((blots(1)[0] + 1) / 2).permute(1, 2, 0).numpy().copy(), cv2.COLOR_RGB2GRAY)
    np.testing.assert_allclose(luminance(blots(1))[0], grey, atol=1e-6)


def test_hysteresis_follows_a_weak_edge_to_its_end() -> None:
    """A step whose height falls from left to right: weak alone is no edge, joined to its strong beginning it is."""
    height = torch.linspace(0.5, 0.06, 60)
    picture = torch.zeros(1, 3, 24, 60) - 1
    picture[:, :, 12:] += 2 * height
    found = canny(picture, sigma=1.0, low=0.02, high=0.1)[0]
    assert bool(found.any(0).all())
    assert int(found.sum()) == 60
    assert not bool(canny(picture[..., 40:], sigma=1.0, low=0.02, high=0.1).any())


def test_edges_depend_on_no_other_picture_and_on_no_memory_format() -> None:
    x, x_hat = blots(6), blots(6, seed=5)
    together = canny(x)
    assert together.any()
    for number in range(len(x)):
        assert torch.equal(canny(x[number : number + 1])[0], together[number])
    assert torch.equal(canny(x.contiguous(memory_format=torch.channels_last)), together)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(edge_difference(x, x_hat), edge_difference(x.clone(), x_hat))
        lowered = edge_difference(x, x_hat)
    torch.testing.assert_close(edge_difference(x, x_hat), lowered, atol=0, rtol=0)


def test_an_edge_that_moves_by_a_pixel_counts_less_than_one_that_is_missing() -> None:
    picture, beside, empty = (torch.full((1, 3, 32, 32), 0.8) for _ in range(3))
    picture[..., 16:] = -0.5
    beside[..., 17:] = -0.5
    same, moved, missing = (float(edge_difference(picture, other).sum()) for other in (picture, beside, empty))
    assert same == 0
    assert (
        0.2 * missing < moved < 0.9 * missing
    )  # two edges of 32 pixels would be twice `missing` if they were far apart
    assert abs(missing - 32) < 1e-3  # 32 pixels of edge, spread
