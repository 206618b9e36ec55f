"""Networks that grow: what fades in, what runs, and what a file may say of it."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from uadray.errors import InputError
from uadray.networks import pgan, stylegan
from uadray.networks.growing import Discriminator, Growth, channel_plan

SIZES = {"input_px": 16, "channel_max": 12, "channel_base": 96}


def _generator(kind: str, input_px: int = 16) -> nn.Module:
    torch.manual_seed(0)
    sizes = SIZES | {"input_px": input_px}
    if kind == "pgan":
        return pgan.Generator(latent_dim=6, **sizes)
    generator = stylegan.Generator(latent_dim=6, w_dim=5, **sizes)
    for epilogue in generator.synthesis.epilogues:
        nn.init.normal_(epilogue.noise_scale)  # type: ignore[arg-type]
    return generator


def _growth(network: nn.Module) -> Growth:
    growth = network.growth
    assert isinstance(growth, Growth)
    return growth


def _smaller(kind: str, generator: nn.Module) -> nn.Module:
    """A generator of 8 px, built as such, with the layers that one of 16 px has for it."""
    small = _generator(kind, 8)
    _take(small, generator)
    return small


def _take(small: nn.Module, large: nn.Module) -> None:
    """Give a network the weights that a larger one has for the same layers."""
    wanted = {key: t for key, t in small.state_dict().items() if "growth" not in key}
    small.load_state_dict({key: large.state_dict()[key] for key in wanted}, strict=False)


def test_channels_are_those_of_the_papers_table() -> None:
    plan = channel_plan(1024, channel_max=512, channel_base=16384)
    assert plan == [512, 512, 512, 512, 256, 128, 64, 32, 16]  # 4 to 1024 px (Karras et al. 2018, table 2)


@pytest.mark.parametrize("kind", ["pgan", "stylegan"])
def test_a_generator_fades_from_the_smaller_one_to_the_larger(kind: str) -> None:
    generator, z = _generator(kind), torch.randn(3, 6)
    _growth(generator).move_to(2)
    large = generator(z)
    small = F.interpolate(_smaller(kind, generator)(z), scale_factor=2.0)
    assert large.shape == small.shape == (3, 3, 16, 16)
    for alpha in (0.0, 0.25, 1.0):
        _growth(generator).move_to(2, alpha)
        torch.testing.assert_close(generator(z), (1 - alpha) * small + alpha * large)


@pytest.mark.parametrize("is_blurred", [False, True])
def test_a_discriminator_fades_from_the_smaller_one_to_the_larger(is_blurred: bool) -> None:
    torch.manual_seed(0)
    large = Discriminator(**SIZES, is_blurred=is_blurred)
    small = Discriminator(**SIZES | {"input_px": 8}, is_blurred=is_blurred)
    _take(small, large)
    x = torch.randn(4, 3, 16, 16)
    large.growth.move_to(2, 0.0)
    torch.testing.assert_close(large(x), small(F.avg_pool2d(x, 2)))
    large.growth.move_to(2, 1.0)
    grown = large(x)
    large.growth.move_to(2, 0.999999)
    torch.testing.assert_close(large(x), grown, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(grown, small(F.avg_pool2d(x, 2)))


@pytest.mark.parametrize("kind", ["pgan", "stylegan"])
def test_layers_above_the_level_do_not_run(kind: str) -> None:
    generator, discriminator = _generator(kind), Discriminator(**SIZES, is_blurred=False)
    seen: list[tuple[int, ...]] = []
    for network in (generator, discriminator):
        _growth(network).move_to(1)
        for module in network.modules():
            module.register_forward_hook(lambda _m, _a, out: seen.append(tuple(out.shape)))
    x = generator(torch.randn(2, 6))
    assert x.shape == (2, 3, 8, 8)
    discriminator(x).sum().backward()
    assert max(shape[-1] for shape in seen if len(shape) == 4) == 8
    assert all(p.grad is None for p in discriminator.from_rgb[2].parameters())
    assert discriminator.from_rgb[1].weight.grad is not None


def test_a_score_does_not_depend_on_other_images_up_to_the_features() -> None:
    discriminator, x = Discriminator(**SIZES, is_blurred=True), torch.randn(3, 3, 16, 16)
    alone = torch.cat([discriminator.features(each[None]) for each in x])
    torch.testing.assert_close(discriminator.features(x), alone)
    assert alone.shape == (3, 12, 4, 4)


@pytest.mark.parametrize("kind", ["pgan", "stylegan"])
def test_a_file_says_how_far_a_network_has_grown(kind: str) -> None:
    source, z = _generator(kind), torch.randn(2, 6)
    _growth(source).move_to(2, 0.5)
    with torch.device("meta"):
        opened = _generator(kind)
    opened.load_state_dict(copy.deepcopy(source.state_dict()), assign=True)
    torch.testing.assert_close(opened(z), source(z))
    assert _growth(opened).side_px == 16
    assert _growth(copy.deepcopy(opened)).fading


@pytest.mark.parametrize(("level", "alpha"), [(3, 1.0), (-1, 1.0), (2, 1.5), (2, float("nan")), (0, 0.5)])
def test_a_file_that_says_an_impossible_growth_is_refused(level: int, alpha: float) -> None:
    generator = _generator("pgan")
    state = generator.state_dict() | {"growth.level_kept": torch.tensor(level), "growth.alpha": torch.tensor(alpha)}
    with pytest.raises(InputError, match=r"growing network.*levels: 0 to 2"):
        generator.load_state_dict(state)


def _counts(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_parameters_at_1024_px_are_the_papers() -> None:
    """23.1 M each (Karras et al. 2018, table 2) and 26.2 M (Karras et al. 2019, section 2), on one digit more.

    The papers count the network of 1024 px, with one layer to RGB; here are those of all levels, a thousandth more.
    """
    sizes = {"input_px": 1024, "channel_max": 512, "channel_base": 16384}
    with torch.device("meta"):
        one = pgan.Generator(latent_dim=512, **sizes)
        two = stylegan.Generator(latent_dim=512, w_dim=512, **sizes)
        discriminator = Discriminator(**sizes, is_blurred=False)
    rgb = {
        name: sum(_counts(layer) for layer in list(layers)[:-1])  # type: ignore[call-overload]
        for name, layers in (("one", one.to_rgb), ("two", two.synthesis.to_rgb), ("d", discriminator.from_rgb))
    }
    assert (_counts(one), _counts(one) - rgb["one"]) == (23_079_115, 23_071_507)
    assert (_counts(discriminator), _counts(discriminator) - rgb["d"]) == (23_087_249, 23_077_137)
    assert (_counts(two), _counts(two) - rgb["two"]) == (26_218_088, 26_212_019)
    assert _counts(two.mapping) == 8 * (512 * 512 + 512)


def test_shapes_at_1024_px_are_those_of_the_papers_table() -> None:
    """What each convolution gives, in order (Karras et al. 2018, table 2)."""
    sizes = {"input_px": 1024, "channel_max": 512, "channel_base": 16384}
    shapes: dict[str, list[tuple[int, ...]]] = {"generator": [], "discriminator": []}
    with torch.device("meta"):
        generator, discriminator = pgan.Generator(latent_dim=512, **sizes), Discriminator(**sizes, is_blurred=False)
        for name, network in (("generator", generator), ("discriminator", discriminator)):
            for module in network.modules():
                if type(module).__name__ in ("Conv2d", "Linear"):
                    module.register_forward_hook(lambda _m, _a, out, to=shapes[name]: to.append(tuple(out.shape[1:])))
        discriminator(generator(torch.randn(4, 512)))
    sides = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64, 512: 32, 1024: 16}
    up = [(c, side, side) for side, c in sides.items() for _ in range(2)]
    down = [(c, side, side) for side in reversed(sides) if side > 4 for c in (sides[side], sides[side // 2])]
    assert shapes["generator"] == [*up, (3, 1024, 1024)]
    assert shapes["discriminator"] == [(16, 1024, 1024), *down, (512, 4, 4), (512, 1, 1), (1,)]
