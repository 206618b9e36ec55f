"""Shapes of every network at several sizes (jaxtyping checks the annotations as well), and what each must not mix."""

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor, nn

from uadray.detectors.inversion.encoders import IziEncoder
from uadray.networks.layers import PreActivationBlock, WganBlock
from uadray.networks.wgan_gp import Critic, Generator, Trunk, channel_plan

pytestmark = pytest.mark.usefixtures("torch_alone")


def _images(n: int, side_px: int) -> Tensor:
    return torch.rand(n, 3, side_px, side_px) * 2 - 1


def test_annotations_are_checked() -> None:
    """If this fails, `--jaxtyping-packages` is gone from pyproject's addopts, and no shape below is checked."""
    with pytest.raises(TypeCheckError):
        Critic(width=4, input_px=16)(torch.zeros(2, 1, 16, 16))


@pytest.mark.parametrize("side_px", [16, 32, 64])
@pytest.mark.parametrize("latent_dim", [2, 24])
def test_wgan_shapes(side_px: int, latent_dim: int) -> None:
    generator = Generator(width=4, input_px=side_px, latent_dim=latent_dim)
    critic = Critic(width=4, input_px=side_px)
    encoder = IziEncoder(width=4, input_px=side_px, latent_dim=latent_dim)
    images = generator(torch.randn(3, latent_dim))
    assert images.shape == (3, 3, side_px, side_px)
    assert images.abs().max() <= 1
    assert critic(images).shape == (3,)
    assert critic.trunk(images).shape == (3, channel_plan(4, side_px)[-1], 4, 4)
    assert encoder(images).shape == (3, latent_dim)


@pytest.mark.parametrize(
    ("width", "side_px", "plan"),
    [(4, 16, [4, 8, 16]), (16, 32, [16, 32, 64, 128]), (16, 128, [16, 32, 64, 128, 128, 128])],
)
def test_channel_plan(width: int, side_px: int, plan: list[int]) -> None:
    assert channel_plan(width, side_px) == plan


@pytest.mark.parametrize("kind", [Critic, Trunk])
def test_no_coupling_across_the_batch_where_the_gradient_penalty_looks(kind: type[nn.Module]) -> None:
    """In training mode too: one sample's output, and its gradient, know nothing of the others."""
    critic = kind(width=4, input_px=16).train()
    x = _images(6, 16).requires_grad_()
    together, alone = critic(x), torch.cat([critic(one) for one in x.split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(together[2].sum(), x)
    assert gradient[2].abs().sum() > 0
    assert gradient[[0, 1, 3, 4, 5]].abs().sum() == 0


def test_the_generator_does_couple_its_batch_in_training_only() -> None:
    """Batch normalisation, as in the paper; so scoring must run in evaluation mode."""
    generator = Generator(width=4, input_px=16, latent_dim=4)
    z = torch.randn(4, 4)
    assert not torch.allclose(generator.train()(z)[:2], generator(z[:2]), atol=1e-4)
    generator.eval()
    torch.testing.assert_close(generator(z)[:2], generator(z[:2]))


@pytest.mark.parametrize(("resize", "side"), [("up", 16), ("down", 4), ("none", 8)])
@pytest.mark.parametrize("per_sample", [True, False])
def test_wgan_block_sizes(resize: str, side: int, per_sample: bool) -> None:
    block = WganBlock(4, 6, resize=resize, per_sample=per_sample)  # type: ignore[arg-type]
    assert block(torch.randn(2, 4, 8, 8)).shape == (2, 6, side, side)


def test_pre_activation_block_is_a_residual() -> None:
    """With its convolutions at zero it passes its input on unchanged, or only widened."""
    same, wider = PreActivationBlock(4, 4), PreActivationBlock(4, 6)
    for block in (same, wider):
        for parameter in block.residual[-1].parameters():
            nn.init.zeros_(parameter)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(same(x), x)
    assert torch.equal(wider(x), wider.shortcut(x))
