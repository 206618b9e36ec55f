"""Every generator's file has the four names, and its size is known before it is built."""

import pytest

from uadray.errors import InputError
from uadray.generators import wgan_gp
from uadray.generators.catalog import GeneratorConfig, file_of, outline_of

GAN = wgan_gp.Config(kind="wgan_gp", input_px=16, width=4, latent_dim=8)
EXAMPLES = [GAN]


@pytest.mark.parametrize("config", EXAMPLES, ids=lambda config: config.kind)
def test_a_file_has_the_four_names(config: GeneratorConfig) -> None:
    file = file_of(config)
    assert isinstance(config, file.Config)  # type: ignore[attr-defined]
    assert file.borrowed_weights(config) == ()
    networks = file.networks(config, pretrained=False)
    assert {name: n.state_dict().keys() for name, n in networks.items()} == {
        name: n.state_dict().keys() for name, n in outline_of(config).items()
    }


def test_what_is_large_together_is_refused() -> None:
    large = GAN.model_copy(update={"width": 256, "input_px": 1024, "latent_dim": 4096})
    with pytest.raises(InputError, match=r"generator wgan_gp: [0-9,]+ parameters, at most 500,000,000 are built"):
        outline_of(large)
