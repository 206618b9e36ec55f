"""Simplex noise: its mean, its variance, how far it is correlated, and that it has no edges."""

import pytest
import torch
from torch import Tensor

from uadray.detectors.denoising.simplex_noise import DEVIATION, GRADIENTS, octaves, simplex, wavelengths

pytestmark = pytest.mark.usefixtures("torch_alone")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def correlation(planes: Tensor, shift_px: int) -> float:
    """Between pixels so far apart along a row, over all planes; their mean is 0."""
    return float((planes[..., shift_px:] * planes[..., :-shift_px]).mean() / planes.square().mean())


def test_mean_0_and_variance_1() -> None:
    planes = octaves(300, 32, rng=seeded())
    assert planes.shape == (300, 32, 32)
    assert abs(float(planes.mean())) < 0.02
    assert float(planes.var()) == pytest.approx(1, rel=0.04)
    assert float(planes.var(0).std()) < 0.12  # the same at every pixel: there is no lattice to see


def test_neighbours_are_alike_up_to_the_longest_wavelength() -> None:
    """Of 64 px: half as much at 2 px, nothing at 24 px; white noise has nothing anywhere."""
    planes = octaves(60, 64, rng=seeded())
    assert correlation(planes, 1) > 0.5
    assert correlation(planes, 4) > 0.1
    assert abs(correlation(planes, 24)) < 0.05
    assert abs(correlation(torch.randn(60, 64, 64), 1)) < 0.02


def test_one_octave_is_as_long_as_its_wavelength() -> None:
    """The correlation of a single octave is positive within a third of it, and over beyond one and a half."""
    table = torch.randperm(256, generator=seeded())
    step = torch.arange(0, 4, 1 / 16)
    line = torch.stack([step, torch.zeros_like(step), torch.zeros_like(step)]).view(1, 3, 1, -1)
    place = torch.rand(4000, 3, 1, 1, generator=seeded()) * 256
    planes = simplex(line + place, table) / DEVIATION
    assert float(planes.var()) == pytest.approx(1, rel=0.05)
    assert correlation(planes, 4) > 0.3
    assert abs(correlation(planes, 28)) < 0.06


def test_planes_and_colours_are_independent() -> None:
    planes = octaves(3000, 8, rng=seeded()).view(1000, 3, 64)
    between = (planes[:, 0] * planes[:, 1]).mean()
    assert abs(float(between)) < 0.03


def test_noise_is_continuous_with_its_slope() -> None:
    """Half the step, half the largest difference, also across the faces of simplices."""
    table, start = torch.randperm(256, generator=seeded()), torch.rand(60, 3, 1, 1, generator=seeded()) * 50
    direction = torch.tensor([1.0, 0.6, 0.3]).view(1, 3, 1, 1)
    largest = []
    for many in (1000, 2000):
        line = start.double() + torch.linspace(0, 2, many + 1).double() * direction
        largest.append(float(simplex(line, table).diff(dim=-1).abs().max()))
    assert largest[1] == pytest.approx(largest[0] / 2, rel=0.05)


def test_a_corner_alone() -> None:
    """At a corner of the lattice the noise is 0; close to it, it is that corner's slope, times its kernel."""
    table = torch.arange(256)
    at_corner = torch.zeros(1, 3, 1, 1).double()
    assert float(simplex(at_corner, table)) == pytest.approx(0, abs=1e-12)
    offset = torch.tensor([3e-4, 2e-4, 1e-4]).view(1, 3, 1, 1).double()
    slope = float((torch.tensor(GRADIENTS[0]) * offset.flatten()).sum())
    others = 0.0  # the three other corners of (0, 0, 0)'s simplex are 0.75, 1 and 0.75 away, squared: beyond the kernel
    assert float(simplex(offset, table)) == pytest.approx(0.5**4 * slope + others, rel=1e-4)


def test_octaves_halve_down_to_the_papers_shortest() -> None:
    assert len(wavelengths(256)) == 6
    assert wavelengths(8) == [2]


def test_a_seed_gives_the_same_noise() -> None:
    assert torch.equal(octaves(2, 16, rng=seeded(3)), octaves(2, 16, rng=seeded(3)))
    assert not torch.equal(octaves(2, 16, rng=seeded(3)), octaves(2, 16, rng=seeded(4)))
