"""The U-Net: what it says depends on the time and on the tile alone."""

import pytest
import torch

from uadray.networks.unet import PERIOD, Attention, UNet, embedded

pytestmark = pytest.mark.usefixtures("torch_alone")


def unet(**sizes: int) -> UNet:
    """A tiny one, of whose weights none is 0, as after a training."""
    network = UNet(**({"width": 8, "halvings": 2, "blocks": 1, "attention_halvings": 1} | sizes))
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return network.eval()


@pytest.mark.parametrize("sizes", [{}, {"blocks": 2, "width": 4}, {"halvings": 1, "attention_halvings": 5}])
def test_the_noise_has_the_images_shape(sizes: dict[str, int]) -> None:
    x = torch.rand(2, 3, 16, 24) * 2 - 1
    assert unet(**sizes)(x, torch.tensor([1.0, 900])).shape == x.shape


def test_it_begins_by_saying_nothing() -> None:
    x = torch.rand(2, 3, 16, 16)
    said = UNet(width=8, halvings=2, blocks=1, attention_halvings=1)(x, torch.tensor([1.0, 900]))
    assert not said.any()


def test_a_tile_is_alone_in_its_batch() -> None:
    network, x, t = unet(), torch.rand(5, 3, 16, 16), torch.tensor([10.0, 50, 100, 400, 800])
    with torch.no_grad():
        together, alone = network(x, t), torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_it_knows_the_time() -> None:
    network, x = unet(), torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        early, late = (network(x, torch.tensor([t])) for t in (10.0, 500.0))
    assert (early - late).abs().mean() > 1e-3


def test_every_weight_learns() -> None:
    network = unet()
    network(torch.rand(2, 3, 16, 16), torch.tensor([10.0, 500])).square().mean().backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_attention_is_the_softmax_of_products() -> None:
    layer, x = Attention(8), torch.randn(2, 8, 3, 5)
    with torch.no_grad():
        torch.nn.init.normal_(layer.out.weight)
        q, k, v = layer.to_qkv(layer.norm(x)).view(2, 3, 8, 15).unbind(1)
        shares = torch.softmax(torch.einsum("ncp,ncq->npq", q, k) / 8**0.5, -1)
        expected = x + layer.out(torch.einsum("npq,ncq->ncp", shares, v).reshape(x.shape))
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_the_embedding_is_sines_and_cosines() -> None:
    t = torch.tensor([0.0, 3, 1000])
    found = embedded(t, 8).double()
    for number in range(4):
        angle = t.double() / PERIOD ** (number / 3)
        torch.testing.assert_close(found[:, number], angle.sin(), rtol=0, atol=1e-4)
        torch.testing.assert_close(found[:, 4 + number], angle.cos(), rtol=0, atol=1e-4)
