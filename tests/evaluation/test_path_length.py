"""Path lengths of generators whose lengths are known, and of LPIPS' kind of distance."""

import numpy as np
import pytest
import torch
from torch import Tensor

from uadray.evaluation import path_length as module
from uadray.evaluation.path_length import EPSILON, pair_on_the_way, path_length, reduced, without_outliers
from uadray.generators import stylegan2, wgan_gp
from uadray.networks.lpips import lpips_distance

pytestmark = pytest.mark.usefixtures("torch_alone")

GAN = wgan_gp.Config(kind="wgan_gp", input_px=16, width=4, latent_dim=512)


def _squares(x: Tensor, y: Tensor) -> Tensor:
    return ((x.double() - y.double()) ** 2).sum(dim=(1, 2, 3))


class _Painter(torch.nn.Module):
    """A linear generator: each pixel is one latent times 3."""

    def forward(self, z: Tensor) -> Tensor:
        return 3 * z[:, : 16 * 16].view(-1, 1, 16, 16).repeat(1, 2, 1, 1)


def test_of_a_linear_generator() -> None:
    """A great circle between two draws of n normals is about |z| times the angle long, and z about sqrt(n).

    So a step moves each latent by pi / 2 on average (the angle is nearly a right one), whatever n; it shows in 2 x 256
    pixels, times 3.
    """
    mean, error = path_length(GAN, {"generator": _Painter()}, _squares, 400, seed=1)
    expected = 2 * 256 * 9 * (np.pi / 2) ** 2
    assert mean == pytest.approx(expected, rel=0.05)
    assert 0 < error < 0.02 * expected


def test_the_two_ways() -> None:
    a, b = torch.tensor([[3.0, 0.0]]).double(), torch.tensor([[0.0, 3.0]]).double()
    x, y = pair_on_the_way(a, b, torch.tensor([0.5]).double())
    angle = np.pi / 4 + EPSILON * np.pi / 2
    torch.testing.assert_close(y, 3 * torch.tensor([[np.cos(angle), np.sin(angle)]]))
    assert float(x.norm()) == pytest.approx(3)
    w = torch.tensor([[[0.0, 4.0]]]).double(), torch.tensor([[[8.0, 0.0]]]).double()
    x, y = pair_on_the_way(*w, torch.tensor([0.25]).double())
    torch.testing.assert_close(x, torch.tensor([[[2.0, 3.0]]]).double())
    torch.testing.assert_close(y - x, EPSILON * (w[1] - w[0]))


def test_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[Tensor] = []
    way = module.pair_on_the_way
    monkeypatch.setattr(module, "pair_on_the_way", lambda a, b, t: (places.append(t), way(a, b, t))[1])
    for sampling in ("end", "full"):
        path_length(GAN, {"generator": _Painter()}, _squares, 40, seed=1, sampling=sampling)  # type: ignore[arg-type]
    assert [len(t) for t in places] == [16, 16, 8] * 2
    assert not torch.cat(places[:3]).any()
    assert float(torch.cat(places[3:]).std()) > 0.2


def test_outliers_are_cut_at_both_ends() -> None:
    lengths = np.random.default_rng(0).permutation(np.arange(1000.0))
    kept = without_outliers(lengths)
    assert sorted(kept.tolist()) == [float(v) for v in range(9, 991)]


def test_with_lpips_it_is_repeatable_and_positive() -> None:
    networks = wgan_gp.networks(GAN, pretrained=False)
    networks["generator"].eval()
    distance = lpips_distance("alexnet")

    def wide(x: Tensor, y: Tensor) -> Tensor:
        return distance(*(torch.nn.functional.interpolate(v, size=(64, 64)) for v in (x, y)))

    first = path_length(GAN, networks, wide, 20, seed=2)
    assert first == path_length(GAN, networks, wide, 20, seed=2)
    assert first[0] > 0


def test_large_pictures_are_reduced_to_256_px() -> None:
    x = torch.rand(1, 3, 512, 512)
    assert reduced(x).shape == (1, 3, 256, 256)
    torch.testing.assert_close(reduced(x)[0, 0, 3, 5], x[0, 0, 6:8, 10:12].mean())
    assert reduced(x[..., :64, :64]).shape == (1, 3, 64, 64)


def test_in_w_it_is_the_square_of_the_slope_along_the_line() -> None:
    """Of a small StyleGAN2, against the derivative at the beginning of each line."""
    config = stylegan2.Config(
        kind="stylegan2", input_px=16, channel_base=128, channel_max=8, latent_dim=8, w_dim=8, mapping_layers=2
    )
    networks = stylegan2.networks(config, pretrained=False)
    lengths = []

    def distance(x: Tensor, y: Tensor) -> Tensor:
        lengths.append(_squares(x, y))
        return lengths[-1]

    path_length(config, networks, distance, 16, seed=4, sampling="end")
    rng = torch.Generator().manual_seed(4)
    z = stylegan2.latents(config, 32, rng=rng)
    with torch.no_grad():
        w = stylegan2.styles(config, networks, z)
    _, slope = torch.autograd.functional.jvp(
        lambda at: stylegan2.pictures(config, networks, at), w[:16], w[16:] - w[:16]
    )
    expected = (slope.double() ** 2).sum(dim=(1, 2, 3))
    torch.testing.assert_close(lengths[0] / EPSILON**2, expected.detach(), rtol=0.05, atol=0)
