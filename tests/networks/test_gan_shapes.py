"""Layers and parameters of DCGAN and WGAN-GP at 64 px, counted by hand from the papers and their authors' code."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from uadray.generators import dcgan, wgan_gp
from uadray.generators.catalog import GeneratorConfig, outline_of
from uadray.networks.dcgan import Discriminator


def _parameters(config: GeneratorConfig) -> dict[str, int]:
    return {name: sum(p.numel() for p in net.parameters()) for name, net in outline_of(config).items()}


def _norm(channels: int) -> int:
    return 2 * channels


def _conv(a: int, b: int, side: int, *, bias: bool = False) -> int:
    return side**2 * a * b + b * bias


@pytest.mark.parametrize("width", [64, 128])  # AnoGAN's, Radford's
def test_dcgan_has_the_parameters_of_the_paper(width: int) -> None:
    """Figure 1: 100 -> 4 x 4 x 8w -> 8 x 8 x 4w -> 16 x 16 x 2w -> 32 x 32 x w -> 64 x 64 x 3, 5 x 5 kernels."""
    plan = [8 * width, 4 * width, 2 * width, width]
    between = sum(_conv(a, b, 5) for a, b in pairwise(plan))
    start = 100 * plan[0] * 16 + _norm(plan[0] * 16)
    generator = start + between + sum(_norm(c) for c in plan[1:]) + _conv(width, 3, 5)
    discriminator = _conv(3, width, 5) + between + sum(_norm(c) for c in plan[:-1]) + plan[0] * 16
    found = _parameters(dcgan.Config(kind="dcgan", width=width))
    assert found == {"generator": generator, "discriminator": discriminator}


def test_wgan_gp_has_the_parameters_that_its_docstring_tells() -> None:
    """Those of gan_64x64.py, with biases in first convolutions, which widen the down blocks already."""

    def block(a: int, b: int) -> int:
        convolutions = _conv(a, b, 3, bias=True) + _conv(b, b, 3, bias=True) + _conv(a, b, 1, bias=True)
        return _norm(a) + _norm(b) + convolutions

    up, down = [512, 512, 256, 128, 64], [64, 128, 256, 512, 512]
    generator = (128 + 1) * 512 * 16 + sum(block(a, b) for a, b in pairwise(up)) + _norm(64) + 27 * 64 + 3
    critic = 27 * 64 + 64 + sum(block(a, b) for a, b in pairwise(down)) + 512 * 16 + 1
    assert (generator, critic) == (8_541_443, 9_816_577)
    found = _parameters(wgan_gp.Config(kind="wgan_gp", width=64))
    assert found == {"generator": generator, "critic": critic}


def test_dcgan_maps_at_64_px() -> None:
    """AnoGAN's 512-256-128-64."""
    seen: dict[str, list[tuple[int, ...]]] = {"generator": [], "discriminator": []}
    networks = outline_of(dcgan.Config(kind="dcgan"))
    for name, network in networks.items():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.register_forward_hook(lambda _, __, out, name=name: seen[name].append(tuple(out.shape[1:])))
    x = networks["generator"](torch.empty(2, 100, device="meta"))
    networks["discriminator"](x)
    assert seen["generator"] == [(256, 8, 8), (128, 16, 16), (64, 32, 32), (3, 64, 64)]
    assert seen["discriminator"] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]


def test_dcgan_begins_as_the_paper_says() -> None:
    """N(0, 0.02): the error of a deviation of n draws is about 1 / sqrt(2 n) of it."""
    torch.manual_seed(0)
    network = dcgan.networks(dcgan.Config(kind="dcgan", input_px=32, width=16), pretrained=False)["generator"]
    assert isinstance(network, nn.Module)
    for name, p in network.named_parameters():
        if p.ndim > 1:
            assert p.std().item() == pytest.approx(0.02, rel=4 / (2 * p.numel()) ** 0.5), name
            assert abs(p.mean().item()) < 4 * 0.02 / p.numel() ** 0.5


@pytest.mark.parametrize("side_px", [16, 32, 128])
def test_stages_follow_from_the_resolution(side_px: int) -> None:
    networks = dcgan.networks(dcgan.Config(kind="dcgan", input_px=side_px, width=4), pretrained=False)
    x: Tensor = networks["generator"](torch.randn(2, 100))
    assert x.shape == (2, 3, side_px, side_px)
    assert x.abs().max() <= 1
    discriminator = networks["discriminator"]
    assert isinstance(discriminator, Discriminator)
    assert discriminator.features(x).shape[2:] == (4, 4)
    assert torch.equal(discriminator(x), discriminator.logit(discriminator.features(x).flatten(1)).squeeze(1))
