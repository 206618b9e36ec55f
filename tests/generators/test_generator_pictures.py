"""Pictures of a generator: those of a seed, whatever the batch; and the ways between them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from uadray.errors import InputError
from uadray.generators import dcgan, stylegan2, wgan_gp
from uadray.generators.catalog import GeneratorConfig, file_of
from uadray.generators.pictures import BLOCK, drawn, interpolated, slerp
from uadray.networks.outline import Networks

pytestmark = pytest.mark.usefixtures("torch_alone")

EXAMPLES = [
    dcgan.Config(kind="dcgan", input_px=16, width=4, latent_dim=5),
    wgan_gp.Config(kind="wgan_gp", input_px=16, width=4, latent_dim=5),
]


@pytest.fixture(params=EXAMPLES, ids=lambda config: config.kind)
def gan(request: pytest.FixtureRequest) -> tuple[GeneratorConfig, Networks]:
    config: GeneratorConfig = request.param
    networks = file_of(config).networks(config, pretrained=False)
    for _ in range(30):  # until the running statistics of batch normalisation are those of its maps
        networks["generator"](file_of(config).latents(config, 32, rng=torch.Generator().manual_seed(0)))
    return config, networks


STYLED = stylegan2.Config(kind="stylegan2", input_px=16, latent_dim=8, w_dim=8, channel_base=64, channel_max=8)


def _all(gan: tuple[GeneratorConfig, Networks], n: int, **options: int) -> Tensor:
    return torch.cat(list(drawn(*gan, n, **{"seed": 3} | options)))  # type: ignore[arg-type]


def test_a_picture_follows_from_seed_and_number(gan: tuple[GeneratorConfig, Networks]) -> None:
    """Not from the batch, nor from how many are drawn, nor from torch's own random numbers."""
    x = _all(gan, BLOCK + 5)
    assert x.shape == (BLOCK + 5, 3, 16, 16)
    torch.rand(7)
    assert torch.allclose(_all(gan, BLOCK + 1, batch=100), x[: BLOCK + 1], atol=1e-6)
    assert torch.allclose(_all(gan, 3, batch=1), x[:3], atol=1e-6)
    assert not torch.allclose(_all(gan, 3, seed=4), x[:3], atol=1e-3)
    assert [len(batch) for batch in drawn(*gan, 70, seed=0, batch=32)] == [32, 32, 6]


def test_the_way_begins_at_each_stop(gan: tuple[GeneratorConfig, Networks]) -> None:
    stretches = list(interpolated(*gan, seed=3, steps=4, stops=3))
    assert [tuple(stretch.shape) for stretch in stretches] == [(4, 3, 16, 16)] * 3
    assert torch.allclose(torch.stack([stretch[0] for stretch in stretches]), _all(gan, 3), atol=1e-5)
    config, networks = gan
    a, b = file_of(config).latents(config, BLOCK, rng=torch.Generator().manual_seed(3))[:2].double()
    angle = math.acos(float(a @ b / a.norm() / b.norm()))
    half = (math.sin(angle / 2) * (a + b) / math.sin(angle)).float()  # t = 1/2 of the formula
    assert torch.allclose(stretches[0][2], file_of(config).pictures(config, networks, half[None])[0], atol=1e-5)


def test_the_way_through_styles_is_straight() -> None:
    networks = stylegan2.networks(STYLED, pretrained=False)
    z = stylegan2.latents(STYLED, BLOCK, rng=torch.Generator().manual_seed(3))[:2]
    with torch.no_grad():
        w = stylegan2.styles(STYLED, networks, z, truncation=0.5)
        third = stylegan2.pictures(STYLED, networks, (2 * w[:1] + w[1:]) / 3)
    (there, back) = interpolated(STYLED, networks, seed=3, steps=3, stops=2, truncation=0.5)
    assert torch.allclose(there[1], third[0], atol=1e-5)
    assert torch.allclose(back[2], third[0], atol=1e-5)
    assert (there[0] - there[1]).abs().max() > 1e-4


@given(st.floats(0, 1), st.integers(0, 100))
def test_slerp_turns_evenly(t: float, seed: int) -> None:
    """Between vectors of one length: the length stays, and the angle from the first is t of the whole."""
    a, b = torch.randn(2, 1, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    a, b = a / a.norm(), b / b.norm()
    c = slerp(a, b, torch.tensor([[t]], dtype=torch.float64))
    assert c.norm().item() == pytest.approx(1, abs=1e-9)
    whole = torch.atan2((b - (a @ b.T) * a).norm(), (a @ b.T).squeeze()).item()
    part = torch.atan2((c - (a @ c.T) * a).norm(), (a @ c.T).squeeze()).item()
    assert part == pytest.approx(t * whole, abs=1e-6)


def test_slerp_between_the_same_is_there() -> None:
    a = torch.tensor([[3.0, 4.0]])
    assert torch.allclose(slerp(a, a, torch.tensor([[0.3]])), a)
    assert torch.allclose(slerp(a, 2 * a, torch.tensor([[0.5]])), 1.5 * a)


def test_there_is_nothing_to_truncate_in(gan: tuple[GeneratorConfig, Networks]) -> None:
    with pytest.raises(InputError, match=rf"truncation 0.5: a {gan[0].kind} has no latent space W"):
        next(drawn(*gan, 2, seed=0, truncation=0.5))
