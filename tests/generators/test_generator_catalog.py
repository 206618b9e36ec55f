"""Every generator's file has the names of the contract, and its size is known before it is built."""

import pytest
import torch

from uadray.errors import InputError
from uadray.generators import dcgan, pgan, stylegan, stylegan2, wgan_gp
from uadray.generators.catalog import GeneratorConfig, file_of, outline_of

GAN = wgan_gp.Config(kind="wgan_gp", input_px=16, width=4, latent_dim=8)
EXAMPLES = [
    dcgan.Config(kind="dcgan", input_px=16, width=4, latent_dim=8),
    pgan.Config(kind="pgan", input_px=16, latent_dim=8, channel_base=64, channel_max=8),
    stylegan.Config(kind="stylegan", input_px=16, latent_dim=8, w_dim=8, channel_base=64, channel_max=8),
    stylegan2.Config(kind="stylegan2", input_px=16, latent_dim=8, w_dim=8, channel_base=64, channel_max=8),
    GAN,
]


@pytest.mark.parametrize("config", EXAMPLES, ids=lambda config: config.kind)
def test_a_file_has_the_names(config: GeneratorConfig) -> None:
    file = file_of(config)
    assert isinstance(config, file.Config)  # type: ignore[attr-defined]
    assert file.borrowed_weights(config) == ()
    networks = file.networks(config, pretrained=False)
    assert {name: n.state_dict().keys() for name, n in networks.items()} == {
        name: n.state_dict().keys() for name, n in outline_of(config).items()
    }


@pytest.mark.parametrize("config", EXAMPLES, ids=lambda config: config.kind)
def test_pictures_keep_the_contract(config: GeneratorConfig) -> None:
    """On [-1, 1], the same at every call, each independent of its batch, and differentiable in the styles."""
    torch.manual_seed(0)
    file = file_of(config)
    networks = file.networks(config, pretrained=False)
    z = file.latents(config, 3, rng=torch.Generator().manual_seed(0))
    assert z.shape == (3, config.latent_dim)
    assert torch.equal(z, file.latents(config, 3, rng=torch.Generator().manual_seed(0)))
    styles = file.styles(config, networks, z).detach().requires_grad_()
    x = file.pictures(config, networks, styles)
    assert x.shape == (3, 3, config.input_px, config.input_px)
    assert torch.equal(x, file.pictures(config, networks, styles))
    assert torch.allclose(x[1:2], file.pictures(config, networks, styles[1:2]), atol=1e-5)
    (gradient,) = torch.autograd.grad(x[1].square().sum(), styles)
    assert gradient[1].abs().sum() > 0
    assert gradient[0].abs().sum() == gradient[2].abs().sum() == 0


def test_what_is_large_together_is_refused() -> None:
    large = GAN.model_copy(update={"width": 256, "input_px": 1024, "latent_dim": 4096})
    with pytest.raises(InputError, match=r"generator wgan_gp: [0-9,]+ parameters, at most 500,000,000 are built"):
        outline_of(large)
