"""What scanners do to an image: densities and back, blurs against OpenCV, pairs that differ in one thing."""

import math

import cv2
import numpy as np
import pytest
import torch
from nuclei_tiles import spots

from uadray.detectors.views import scanners

pytestmark = pytest.mark.usefixtures("torch_alone")


def test_optical_density_and_back() -> None:
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    levels = 127.5 * (x + 1)
    assert torch.allclose(scanners.optical_density(x), -torch.log((levels + 1) / 256), atol=1e-5)
    assert torch.allclose(scanners.from_density(scanners.optical_density(x)), x, atol=1e-5)


@pytest.mark.parametrize("sigma_px", [0.5, 0.866, 2.0])
def test_blur_is_that_of_opencv(sigma_px: float) -> None:
    x = torch.rand(1, 1, 40, 50)
    ours = scanners.blurred(x, torch.tensor([sigma_px]))[0, 0].numpy()
    radius = math.ceil(3 * sigma_px)
    theirs = cv2.GaussianBlur(x[0, 0].numpy(), (2 * radius + 1,) * 2, sigma_px, borderType=cv2.BORDER_REFLECT_101)
    assert np.abs(ours - theirs).max() < 1e-5


def test_each_image_is_blurred_by_its_own_deviation() -> None:
    x = torch.rand(3, 2, 32, 32)
    sigmas = torch.tensor([0.1, 0.7, 1.5])
    together = scanners.blurred(x, sigmas)
    assert torch.equal(together[0], x[0])
    for i in (1, 2):
        # the kernel of the widest is cut off at its own 3 deviations, that of a narrower one further out
        alone = scanners.blurred(x[i : i + 1], sigmas[i : i + 1])[0]
        assert (together[i] - alone).abs().max() < 5e-3


def test_scanners_change_colours_and_not_structure() -> None:
    torch.manual_seed(0)
    x = spots(8, 64, mpp=0.972)
    seen = scanners.as_scanned(x, mpp=0.972)
    assert (seen - x).abs().mean() > 0.02
    for before, after in zip(x.flatten(1), seen.flatten(1), strict=True):
        assert float(torch.corrcoef(torch.stack([before, after]))[0, 1]) > 0.85


def test_pairs_differ_in_one_thing() -> None:
    torch.manual_seed(0)
    x = spots(4, 64, mpp=0.972)
    sharper, softer = scanners.scanner_pair(x, "sharpness", mpp=0.972)
    assert sharper.diff(dim=3).abs().mean() > 1.5 * softer.diff(dim=3).abs().mean()
    assert (sharper.mean() - softer.mean()).abs() < 0.05
    thicker, as_it_is = scanners.scanner_pair(x, "thickness", mpp=0.972)
    assert torch.equal(as_it_is, x)
    ratio = scanners.optical_density(thicker) / scanners.optical_density(x)
    assert torch.allclose(ratio, torch.tensor(1.2), atol=1e-3)
    veiled, _ = scanners.scanner_pair(x, "tint", mpp=0.972)
    added = scanners.optical_density(veiled) - scanners.optical_density(x)
    assert torch.allclose(added, torch.tensor(0.08), atol=1e-3)
