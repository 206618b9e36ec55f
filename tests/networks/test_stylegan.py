"""StyleGAN's generator: moments after AdaIN, mixing, truncation, and which noise moves what."""

import pytest
import torch
from torch import Tensor, nn

from uadray.networks.stylegan import Generator, adain, mixed


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    made = Generator(input_px=16, latent_dim=6, w_dim=5, channel_max=12, channel_base=96)
    for epilogue in made.synthesis.epilogues:
        nn.init.normal_(epilogue.noise_scale)  # type: ignore[arg-type]
    return made


def test_adain_gives_each_map_its_moments() -> None:
    x, scale, shift = torch.randn(4, 3, 8, 8) * 5 + 2, torch.rand(4, 3) + 0.5, torch.randn(4, 3)
    y = adain(x, scale=scale, shift=shift).numpy()
    torch.testing.assert_close(torch.from_numpy(y.mean(axis=(2, 3))), shift, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(y.std(axis=(2, 3))), scale, rtol=1e-4, atol=1e-5)


def test_the_mapping_starts_at_the_scale_of_z_whatever_its_rate() -> None:
    """He's constant keeps the mean square through each of the eight layers."""
    torch.manual_seed(0)
    mapping = Generator(input_px=8, latent_dim=256, w_dim=256, channel_max=4, channel_base=64).mapping
    assert mapping(torch.randn(500, 256)).square().mean().item() == pytest.approx(1.0, abs=0.4)


def test_mixing_takes_the_second_style_from_one_layer_on() -> None:
    torch.manual_seed(0)
    ones = torch.ones(2000, 6, 1)
    first = mixed(torch.zeros_like(ones), ones, probability=0.9, layers=4)[:, :, 0]
    assert torch.equal(first, first.sort(dim=1).values)  # zeros, then ones
    changes = (first == 0).sum(dim=1)
    shares = [(changes == at).float().mean().item() for at in (1, 2, 3, 4)]
    assert shares[:3] == pytest.approx([0.3, 0.3, 0.3], abs=0.04)
    assert shares[3] == pytest.approx(0.1, abs=0.03)  # unmixed: the layers that are looked at have w1 alone
    assert set(changes.tolist()) == {1, 2, 3, 4}


def test_truncation_moves_styles_to_the_mean(generator: Generator) -> None:
    w = torch.randn(3, 5)
    generator.mean_w.copy_(torch.arange(5.0))
    assert torch.equal(generator.styles(w), w[:, None].expand(3, 6, 5))
    torch.testing.assert_close(generator.styles(w, truncation=0.0), torch.arange(5.0).expand(3, 6, 5))
    torch.testing.assert_close(generator.styles(w, truncation=0.5)[:, 2], (w + torch.arange(5.0)) / 2)


def test_pictures_have_fixed_noise_unless_it_is_given(generator: Generator) -> None:
    w = generator.styles(torch.randn(2, 5))
    fixed = generator.synthesis(w)
    assert torch.equal(fixed, generator.synthesis(w))
    assert torch.equal(fixed[1:], generator.synthesis(w)[1:])
    torch.testing.assert_close(fixed, generator.synthesis(w, noise=generator.synthesis.fixed_noise()))
    drawn = [generator.synthesis(w, noise=generator.synthesis.drawn_noise(2)) for _ in range(2)]
    assert not torch.allclose(drawn[0], drawn[1])


def test_styles_and_noise_maps_can_be_optimised(generator: Generator) -> None:
    """As a projection of a picture into W+ does: every layer's style and every map has a gradient."""
    w = generator.styles(torch.randn(1, 5)).detach().clone().requires_grad_()
    noise = [each.clone().requires_grad_() for each in generator.synthesis.fixed_noise()]
    generator.synthesis(w, noise=noise).square().sum().backward()
    gradients: list[Tensor] = [w.grad[0, layer] for layer in range(6)] if w.grad is not None else []
    gradients += [each.grad for each in noise if each.grad is not None]
    assert len(gradients) == 12
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_the_last_layers_style_changes_no_structure(generator: Generator) -> None:
    """Its scale and shift are one for each map of the last layer, so equal pixels stay equal."""
    w = generator.styles(torch.randn(1, 5)).clone()
    other = w.clone()
    other[:, 5] += 1.0
    generator.synthesis.constant.data.fill_(1.0)
    flat = [torch.zeros_like(each) for each in generator.synthesis.fixed_noise()]
    assert not torch.allclose(generator.synthesis(w, noise=flat), generator.synthesis(other, noise=flat))
