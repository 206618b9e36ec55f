"""Noise maps: the penalty against ten lines of NumPy, its gradient, and what normalisation leaves."""

import numpy as np
import pytest
import torch

from uadray.detectors.inversion import noise_maps


def drawn(n: int = 2, *, sides: tuple[int, ...] = (4, 8, 16, 32), dtype: torch.dtype = torch.float64) -> list:
    rng = torch.Generator().manual_seed(3)
    return [torch.randn(n, 1, side, side, generator=rng, dtype=dtype) for side in sides]


def reference(maps: list[np.ndarray]) -> float:
    """The penalty of one image, as appendix D writes it: sums over x and y, nothing else."""
    total = 0.0
    for n in maps:
        while True:
            r = len(n)
            total += (sum(n[y, x] * n[y, x - 1] for y in range(r) for x in range(r)) / r**2) ** 2
            total += (sum(n[y, x] * n[y - 1, x] for y in range(r) for x in range(r)) / r**2) ** 2
            if r <= 8:
                break
            n = (n[::2, ::2] + n[1::2, ::2] + n[::2, 1::2] + n[1::2, 1::2]) / 4 * 2
    return total


def test_the_penalty_is_that_of_the_paper() -> None:
    maps = drawn()
    expected = [reference([m[i, 0].numpy() for m in maps]) for i in range(2)]
    np.testing.assert_allclose(noise_maps.penalty(maps).numpy(), expected, rtol=1e-12)
    assert expected[0] != pytest.approx(expected[1])


def test_the_gradient_of_the_penalty_is_that_of_finite_differences() -> None:
    maps = [m.requires_grad_() for m in drawn(1, sides=(4, 16))]
    assert torch.autograd.gradcheck(lambda *given: noise_maps.penalty(given), maps)


def test_a_picture_in_a_map_is_penalised_and_white_noise_hardly() -> None:
    noise = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    picture = torch.linspace(-1, 1, 32).expand(1, 1, 32, 32).clone()
    noise_maps.normalise_([noise, picture])
    assert noise_maps.penalty([picture]) > 1
    assert noise_maps.penalty([noise]) < 0.1
    assert noise_maps.autocorrelation([picture]) > 0.5 > 0.15 > noise_maps.autocorrelation([noise])


def test_normalised_maps_have_mean_0_and_variance_1_each() -> None:
    maps = [5 + 3 * m for m in drawn(3)]
    noise_maps.normalise_(maps)
    for m in maps:
        torch.testing.assert_close(m.mean((1, 2, 3)), torch.zeros(3, dtype=m.dtype))
        torch.testing.assert_close(m.var((1, 2, 3), correction=0), torch.ones(3, dtype=m.dtype))


def test_the_start_is_the_fixed_maps_of_every_image_with_its_own_memory() -> None:
    fixed = [torch.randn(1, 8, 8), torch.randn(1, 1, 16, 16)]
    maps = noise_maps.start(fixed, 3)
    assert [m.shape for m in maps] == [(3, 1, 8, 8), (3, 1, 16, 16)]
    maps[0][0] = 0
    assert maps[0][1].abs().sum() > 0
    assert torch.corrcoef(torch.stack([maps[1][2].flatten(), fixed[1].flatten()]))[0, 1] > 0.9999
