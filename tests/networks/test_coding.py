"""Vector encoder and decoder: shapes, and that a tile's code depends on no other tile."""

import pytest
import torch

from uadray.networks.coding import VectorDecoder, VectorEncoder

pytestmark = pytest.mark.usefixtures("torch_alone")


@pytest.mark.parametrize("side_px", [16, 64])
@pytest.mark.parametrize("width", [4, 16])
def test_there_and_back(side_px: int, width: int) -> None:
    encoder = VectorEncoder(width=width, input_px=side_px, outputs=5)
    decoder = VectorDecoder(width=width, input_px=side_px, latent_dim=5, outputs=7)
    z = encoder(torch.rand(2, 3, side_px, side_px) * 2 - 1)
    assert z.shape == (2, 5)
    assert encoder.features(torch.rand(2, 3, side_px, side_px)).shape[2:] == (4, 4)
    assert decoder(z).shape == (2, 7, side_px, side_px)


@torch.no_grad()
def test_a_tile_is_coded_as_if_alone_even_in_training() -> None:
    torch.manual_seed(0)
    encoder = VectorEncoder(width=8, input_px=16, outputs=5).train()
    decoder = VectorDecoder(width=8, input_px=16, latent_dim=5).train()
    x = torch.rand(4, 3, 16, 16) * 2 - 1
    both = decoder(encoder(x))
    assert torch.allclose(both[:1], decoder(encoder(x[:1])), atol=1e-5)
    assert both.std(0).max() > 1e-3, "tiles differ"
