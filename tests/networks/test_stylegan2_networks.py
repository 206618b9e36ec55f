"""StyleGAN2's layers against loops that make each picture's weights, its sizes against the published ones."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from uadray.generators import stylegan2
from uadray.networks.outline import Networks
from uadray.networks.stylegan2 import Discriminator, DiscriminatorBlock, Generator, ModulatedConv2d, StyledLayer

pytestmark = pytest.mark.usefixtures("torch_alone")


def _generator(input_px: int = 16, *, width: int = 8) -> Generator:
    channels = [width] * (int(math.log2(input_px)) - 1)
    return Generator(input_px=input_px, channels=channels, latent_dim=6, w_dim=6, mapping_layers=2, mapping_rate=0.01)


def _one_by_one(conv: ModulatedConv2d, x: Tensor, w: Tensor) -> Tensor:
    """Equations 1 and 3 as they are written: weights are made for each picture, then it is convolved alone."""
    pictures = []
    for picture, vector in zip(x, w, strict=True):
        style = vector @ conv.style.weight.T / math.sqrt(w.shape[1]) + conv.style.bias
        weight = conv.weight.transpose(0, 1) if conv.is_up else conv.weight  # [out, in, k, k]
        modulated = weight / math.sqrt(weight[0].numel()) * style[None, :, None, None]
        if conv.demodulate:
            modulated = modulated / (modulated.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if conv.is_up:
            y = F.conv_transpose2d(picture[None], modulated.transpose(0, 1), stride=2)
            taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype) / 4
            kernel = torch.outer(taps, taps).expand(y.shape[1], 1, 4, 4)
            pictures.append(F.conv2d(y, kernel, padding=1, groups=y.shape[1]))
        else:
            pictures.append(F.conv2d(picture[None], modulated, padding=conv.side // 2))
    return torch.cat(pictures)


@pytest.mark.parametrize(
    ("is_up", "side", "demodulate"), [(False, 3, True), (True, 3, True), (True, 3, False), (False, 1, False)]
)
def test_a_modulated_convolution_is_that_of_each_pictures_weights(*, is_up: bool, side: int, demodulate: bool) -> None:
    conv = ModulatedConv2d(5, 7, side, w_dim=6, is_up=is_up, demodulate=demodulate).double()
    x, w = torch.randn(3, 5, 8, 8, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    torch.testing.assert_close(conv(x, w), _one_by_one(conv, x, w), rtol=1e-6, atol=1e-6)


def test_its_gradients_are_those_too() -> None:
    """First and second: what path lengths need."""
    conv = ModulatedConv2d(3, 4, 3, w_dim=5, is_up=True).double()
    x, w = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    results = []
    for function in (conv, lambda x, w: _one_by_one(conv, x, w)):
        (first,) = torch.autograd.grad(function(x, w).pow(3).sum(), w, create_graph=True)
        results.append((first, *torch.autograd.grad(first.square().sum(), (w, conv.weight))))
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("is_up", [False, True])
def test_demodulated_outputs_have_unit_variance(*, is_up: bool) -> None:
    """Whatever the style (section 2.2), for inputs that are independent and of unit variance."""
    conv = ModulatedConv2d(64, 64, 3, w_dim=8, is_up=is_up)
    x = torch.randn(4, 64, 32, 32)
    w = torch.randn(4, 8) * torch.tensor([0.1, 1.0, 10.0, 100.0])[:, None]
    with torch.no_grad():
        y = conv(x, w)[..., 4:-4, 4:-4]
    variances = y.flatten(2).var(dim=2).mean(dim=1)
    if is_up:  # the filter takes what is finer than the maps before: of four zero-filled values one is kept
        variances = variances / _share_that_the_filter_keeps()
    torch.testing.assert_close(variances, torch.ones(4), rtol=0.05, atol=0)


def _share_that_the_filter_keeps() -> float:
    """Variance of white noise after a transposed 3 x 3 convolution and the filter, squares of weights summing to 1."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
    shares = []
    for _ in range(200):
        weight = torch.randn(1, 1, 3, 3)
        spread = F.conv_transpose2d(weight / weight.norm(), torch.outer(taps, taps)[None, None])  # 6 x 6, stride 2
        shares.append(spread.square().sum().item() / 4)
    return sum(shares) / len(shares)


def test_a_layer_is_convolution_noise_bias_and_a_leaky_relu_of_gain_root_2() -> None:
    layer = StyledLayer(4, 6, side_px=8, w_dim=5, is_up=False).double()
    torch.nn.init.normal_(layer.bias)
    torch.nn.init.constant_(layer.strength, 0.7)
    x, w, noise = (torch.randn(*s, dtype=torch.float64) for s in ((2, 4, 8, 8), (2, 5), (2, 1, 8, 8)))
    expected = _one_by_one(layer.conv, x, w) + 0.7 * noise + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x, w, noise), math.sqrt(2) * F.leaky_relu(expected, 0.2), rtol=1e-6, atol=1e-6)


def test_a_residual_block_has_the_variance_of_what_came_in() -> None:
    """Both ways halve the side, and neither is ahead of the other by more than the filters take."""
    block = DiscriminatorBlock(64, 64)
    smooth = F.interpolate(torch.randn(4, 64, 8, 8), size=32, mode="bicubic")
    with torch.no_grad():
        y = block(smooth)
    assert y.shape == (4, 64, 16, 16)
    assert 0.5 < y.var().item() / smooth.var().item() < 2


def test_rgb_is_the_sum_of_what_each_resolution_adds_upsampled() -> None:
    """With all but one resolution's RGB at zero, the picture is that one, doubled as often as it takes."""
    generator = _generator(16).double()
    w = torch.randn(2, generator.n_styles, 6, dtype=torch.float64)
    noise = generator.fixed_noise()
    whole = generator.synthesis(w, noise=noise)
    alone = []
    for kept in range(len(generator.to_rgb)):
        weights = [to_rgb.conv.weight.detach().clone() for to_rgb in generator.to_rgb]
        with torch.no_grad():
            for level, to_rgb in enumerate(generator.to_rgb):
                to_rgb.conv.weight *= level == kept
            alone.append(generator.synthesis(w, noise=noise))
            for to_rgb, weight in zip(generator.to_rgb, weights, strict=True):
                to_rgb.conv.weight.copy_(weight)
    torch.testing.assert_close(sum(alone), whole)
    inner = alone[0][..., 4:-4, 4:-4]  # of a 4 x 4 picture doubled twice nothing is finer than that
    assert (inner[..., 1:] - inner[..., :-1]).abs().max() < 0.5 * (inner.max() - inner.min())


def test_each_style_reaches_its_layer_alone() -> None:
    """A style of a finer layer leaves what the coarser ones have made: w of layer i changes RGB from its level on."""
    generator = _generator(16)
    w, noise = torch.randn(1, generator.n_styles, 6), generator.fixed_noise()
    seen: dict[int, Tensor] = {}
    for i, layer in enumerate(generator.layers):
        layer.register_forward_hook(lambda _, __, y, i=i: seen.__setitem__(i, y.detach().clone()))
    with torch.no_grad():
        generator.synthesis(w, noise=noise)
        before = dict(seen)
        changed = w.clone()
        changed[:, 3] += 1
        generator.synthesis(changed, noise=noise)
    assert [torch.equal(before[i], seen[i]) for i in range(5)] == [True, True, True, False, False]


def test_noise_is_scaled_by_one_learned_number_a_layer() -> None:
    """At the start it is 0: pictures of other noise are the same."""
    generator = _generator(16)
    w = torch.randn(2, generator.n_styles, 6)
    with torch.no_grad():
        assert torch.equal(generator.synthesis(w), generator.synthesis(w))
        torch.nn.init.constant_(generator.layers[2].strength, 0.5)
        assert not torch.equal(generator.synthesis(w), generator.synthesis(w))
        fixed = generator.fixed_noise()
        assert torch.equal(generator.synthesis(w, noise=fixed), generator.synthesis(w, noise=fixed))
    drawn = generator.drawn_noise(3, torch.device("cpu"))
    assert [tuple(m.shape) for m in drawn] == [(3, 1, s, s) for s in (4, 8, 8, 16, 16)]
    assert abs(torch.cat([m.flatten() for m in drawn]).std().item() - 1) < 0.1


def test_noise_maps_can_be_optimised() -> None:
    generator = _generator(16)
    for layer in generator.layers:
        torch.nn.init.constant_(layer.strength, 0.3)
    noise = [m.clone().requires_grad_() for m in generator.fixed_noise()]
    w = torch.randn(1, generator.n_styles, 6, requires_grad=True)
    generator.synthesis(w, noise=noise).square().sum().backward()
    assert all(t.grad is not None and t.grad.abs().sum() > 0 for t in [w, *noise])


def test_truncation_draws_w_towards_the_mean() -> None:
    generator = _generator()
    generator.mean_w.normal_()
    w = torch.randn(5, 6)
    torch.testing.assert_close(generator.truncated(w, truncation=0.0), generator.mean_w.expand(5, -1))
    torch.testing.assert_close(generator.truncated(w, truncation=1.0), w)
    torch.testing.assert_close(generator.truncated(w, truncation=0.5), (generator.mean_w + w) / 2)


def test_w_follows_z_whatever_its_length() -> None:
    """Z is normalised first (Karras et al. 2019, appendix C)."""
    mapping = _generator().mapping
    z = torch.randn(4, 6)
    torch.testing.assert_close(mapping(z), mapping(7 * z))


def test_scores_are_linear_in_the_features() -> None:
    discriminator = Discriminator(channels=[8, 6, 4])
    x = torch.randn(4, 3, 16, 16)
    features = discriminator.features(x)
    assert features.shape == (4, 8)
    score = features @ discriminator.score.weight.T / math.sqrt(8) + discriminator.score.bias
    torch.testing.assert_close(discriminator(x), score[:, 0])


def _on_meta(input_px: int, **sizes: int) -> Networks:
    config = stylegan2.Config(kind="stylegan2", input_px=input_px, **sizes)
    with torch.device("meta"):
        return stylegan2.networks(config, pretrained=False)


def _count(networks: Networks, name: str) -> int:
    return sum(p.numel() for p in networks[name].parameters())


def test_the_published_numbers_of_parameters() -> None:
    """Configuration F at 1024 px: 30 and 29 million, E: 25 and 24 (Karras et al. 2020, section 4.2).

    To the last one: the table that StyleGAN2-ADA's published program prints as a training at 1024 px begins has
    28,794,124 and 29,012,513, with a mapping network of 2 layers; 6 more are 6 x (512 x 512 + 512).
    """
    f, e = _on_meta(1024, channel_base=32768), _on_meta(1024)
    assert _count(_on_meta(1024, channel_base=32768, mapping_layers=2), "generator") == 28_794_124
    assert (_count(f, "generator"), _count(f, "discriminator")) == (28_794_124 + 6 * 262_656, 29_012_513)
    assert [round(_count(e, name) / 1e6) for name in ("generator", "discriminator")] == [25, 24]


def test_the_published_numbers_of_each_layer() -> None:
    """Of the same table, from 4 px to 1024 px."""
    networks = _on_meta(1024, channel_base=32768)
    generator, discriminator = networks["generator"], networks["discriminator"]
    assert isinstance(generator, Generator)
    assert isinstance(discriminator, Discriminator)
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in generator.layers]
    halves = [1_442_561, 721_409, 426_369, 213_249, 139_457, 69_761, 51_297, 25_665]
    assert sizes == [2_622_465] * 9 + halves
    rgb = [sum(p.numel() for p in layer.parameters()) for layer in generator.to_rgb]
    assert rgb == [264_195] * 5 + [132_099, 66_051, 33_027, 16_515]
    assert (generator.start.numel(), generator.n_styles) == (8192, 18)
    first = discriminator.blocks[0]
    assert isinstance(first, DiscriminatorBlock)
    convs = (discriminator.from_rgb, first.shortcut, first.conv1, first.conv2)
    assert [sum(p.numel() for p in c.parameters()) for c in convs] == [128, 2048, 9248, 18_496]
    last = (discriminator.last_conv, discriminator.last_dense, discriminator.score)
    assert [sum(p.numel() for p in c.parameters()) for c in last] == [2_364_416, 4_194_816, 513]
