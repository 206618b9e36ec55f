"""The encoder into W+: its shapes at any side, where it starts, and that tiles do not see each other."""

import pytest
import torch
from torch import Tensor

from uadray.networks.style_encoder import DownBlock, StyleEncoder, groups_of

pytestmark = pytest.mark.usefixtures("torch_alone")


def encoder(shape: tuple[int, ...] = (8, 5), *, input_px: int = 32) -> StyleEncoder:
    torch.manual_seed(0)
    network = StyleEncoder(input_px=input_px, width=4, channel_max=12, shape=shape)
    for head in network.heads:
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter)
    return network.eval()


def pictures(n: int, side_px: int = 32) -> Tensor:
    return torch.rand(n, 3, side_px, side_px, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(("input_px", "layers"), [(32, 8), (64, 10), (512, 16)])
def test_one_latent_a_layer_at_any_side(input_px: int, layers: int) -> None:
    """Counts at the sizes of the papers, without memory for them: at 512 px 58 million weights."""
    with torch.device("meta"):
        network = StyleEncoder(input_px=input_px, width=16, channel_max=512, shape=(layers, 512))
        assert network(torch.empty(2, 3, input_px, input_px)).shape == (2, layers, 512)
        assert [m.shape[-1] for m in network.pyramid(torch.empty(2, 3, input_px, input_px))] == [4, 8, 16]
    assert sum(p.numel() for p in network.parameters()) < 100_000_000


@pytest.mark.parametrize("shape", [(7,), (1, 7), (3, 7), (5, 7)])
def test_few_layers_and_z_need_fewer_maps(shape: tuple[int, ...]) -> None:
    network = encoder(shape)
    assert network(pictures(2)).shape == (2, *shape)
    assert len(network.heads) == len(groups_of(len(network.offsets(pictures(1))[0]) if len(shape) > 1 else 1))


def test_groups_are_those_of_psp() -> None:
    """Of 18 layers (1024 px) 3 are coarse, 4 medium and 11 fine (Richardson et al. 2021, figure 2)."""
    assert groups_of(18) == (3, 4, 11)


def test_an_untrained_encoder_gives_the_mean_latent() -> None:
    network = StyleEncoder(input_px=16, width=4, channel_max=8, shape=(6, 3))
    mean = torch.arange(18.0).reshape(6, 3)
    network.centre(mean, 0.5)
    assert torch.equal(network(pictures(2, 16)), mean.expand(2, 6, 3))


def test_offsets_count_in_units_from_the_mean() -> None:
    network = encoder((8, 5))
    offsets = network.offsets(pictures(2))
    network.centre(torch.full((8, 5), 3.0), 0.25)
    torch.testing.assert_close(network(pictures(2)), 3 + offsets / 4)


def test_a_batch_equals_its_tiles_one_by_one() -> None:
    network, x = encoder(), pictures(5)
    torch.testing.assert_close(network(x), torch.cat([network(tile[None]) for tile in x]), rtol=1e-5, atol=1e-5)


def test_each_layer_sees_the_fine_parts_of_a_picture_it_is_read_from() -> None:
    """A change of one pixel reaches the latents of all groups, each of which has weights of its own."""
    network, x = encoder(), pictures(1)
    other = x.clone()
    other[0, 0, 3, 3] += 0.5
    changed = (network(x) - network(other)).abs().amax(dim=(0, 2))
    assert (changed > 0).all()
    assert changed.unique().numel() == 8


def test_variance_stays_through_the_blocks() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 32, 16, 16)
    for _ in range(2):
        x = DownBlock(32, 32)(x)
    assert 0.1 < x.var().item() < 3
