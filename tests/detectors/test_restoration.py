"""Restoration: what the ascent does to images, how lambda is chosen, and what is left of a lesion."""

import functools

import numpy as np
import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor

from uadray.detectors import restoration
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.inversion.interruption import looked_at
from uadray.detectors.likelihood.map_restoration import restored, step_sizes
from uadray.detectors.likelihood.total_variation import total_variation
from uadray.detectors.pixels import to_pixels
from uadray.detectors.restoration import RestorationMap, Trainee
from uadray.detectors.scores import PixelResidual
from uadray.detectors.trainee import UnsuitableTilesError
from uadray.errors import WorkError
from uadray.networks.outline import Networks

pytestmark = pytest.mark.usefixtures("torch_alone")

SMALL = restoration.Config(
    kind="restoration", input_px=16, width=8, latent_dim=8, learning_rate=5e-3, steps=40, step_size=0.05,
    tv_weights=(0.02, 0.1), choosing_tiles=4, choosing_fraction=0.05,
)  # fmt: skip
STEPS = 150

MIXTURE = SMALL.model_copy(update={"prior": "gmvae", "components": 3, "w_dim": 2})


def blots(n: int, *, seed: int) -> Tensor:
    """Normal images: [n, 3, 16, 16], a smooth field, in one of two colours."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 1, 3, 3, generator=generator) - 0.5
    colour = torch.tensor([0.9, 0.2, 0.6])[:, None, None]
    return torch.nn.functional.interpolate(coarse, size=16, mode="bicubic").clamp(-1, 1) * colour


def with_lesions(x: Tensor) -> Tensor:
    """The same with a bright square of 5 x 5."""
    x = x.clone()
    x[:, :, 5:10, 6:11] += 0.8
    return x


@functools.cache
def trained(config: restoration.Config) -> Networks:
    """A prior of blots, and lambda chosen on them."""
    torch.manual_seed(0)
    networks = build_networks(config)
    trainee = build_trainee(config, networks)
    trainee.prepare(blots(64, seed=1))
    for step in range(STEPS):
        trainee.step(blots(16, seed=2 + step), 0.9 * step / STEPS)
    trainee.step(blots(16, seed=1), 0.99)
    trainee.finish()
    for network in networks.values():
        network.requires_grad_(False)
    return networks


def mean_elbo(config: restoration.Config, networks: Networks, x: Tensor) -> Tensor:
    """[n], over draws that the ascent has not seen."""
    elbo = restoration.elbo_of(config, networks)
    generator = torch.Generator().manual_seed(99)
    draws = [torch.randn(len(x), config.noise_dim, generator=generator) for _ in range(32)]
    with torch.no_grad():
        return torch.stack([elbo(x, noise) for noise in draws]).mean(0)


@pytest.mark.parametrize("config", [SMALL, MIXTURE], ids=lambda config: config.prior)
def test_restoration_raises_the_bound(config: restoration.Config) -> None:
    networks = trained(config)
    for x in (blots(8, seed=1000), with_lesions(blots(8, seed=1000))):
        after = RestorationMap(config, networks)(x)
        assert isinstance(after, Tensor)
        assert (mean_elbo(config, networks, after) > mean_elbo(config, networks, x)).all()


@pytest.mark.parametrize("config", [SMALL, MIXTURE], ids=lambda config: config.prior)
def test_normal_tiles_are_left_alone_and_lesions_shrink_towards_what_was_there(config: restoration.Config) -> None:
    normal = blots(16, seed=1001)
    lesions = with_lesions(normal)
    mapping = RestorationMap(config, trained(config))
    of_normal, of_lesions = mapping(normal), mapping(lesions)
    assert isinstance(of_normal, Tensor)
    assert isinstance(of_lesions, Tensor)
    inside = (slice(None), slice(None), slice(5, 10), slice(6, 11))
    before, left = (lesions - normal)[inside].abs().mean(), (of_lesions - normal)[inside].abs().mean()
    print(config.prior, float(before), float(left), float((of_normal - normal).abs().mean()))
    assert left < 0.6 * before
    assert (of_normal - normal).abs().mean() < 0.05
    score = PixelResidual("absolute")
    (scores, maps), (of_normals, _) = score(lesions, of_lesions, of_lesions), score(normal, of_normal, of_normal)
    assert (scores > of_normals).all()
    assert maps[:, 5:10, 6:11].mean() > 3 * maps[:, :, 12:].mean()


def test_the_ascent_is_that_of_the_formula() -> None:
    """Steps of a prior whose bound is quadratic, by hand; a tile has its own lambda."""
    x, weights = torch.randn(3, 3, 4, 4), torch.tensor([0.0, 0.3, 2.0])
    noise, sizes = torch.randn(4, 2), step_sizes(4, 0.1)
    scale = torch.tensor(1.7)

    def elbo(image: Tensor, drawn: Tensor) -> Tensor:
        return -(image - drawn.sum(1).view(-1, 1, 1, 1)).square().flatten(1).sum(1)

    found = restored(x, weights, elbo=elbo, scale=scale, noise=noise, sizes=sizes)
    expected = x.clone()
    for size, drawn in zip([0.1, 0.04, 0.04, 0.04], noise, strict=True):
        change = (expected - x).requires_grad_()
        of_tv = torch.autograd.grad((weights * total_variation(change)).sum(), change)[0]
        expected = expected + size * (-2 * scale * (expected - drawn.sum()) - of_tv)
    torch.testing.assert_close(found, expected)


def test_a_tile_alone_ends_as_among_others() -> None:
    """To the last bit, though the subgradient makes small differences large."""
    mapping = RestorationMap(SMALL, trained(SMALL))
    x = with_lesions(blots(19, seed=1002))
    together = mapping(x)
    assert isinstance(together, Tensor)
    for row in (0, 7, 18):
        alone_ = mapping(x[row : row + 1])
        assert isinstance(alone_, Tensor)
        assert torch.equal(alone_[0], together[row])


def test_it_scores_within_inference_mode_and_is_looked_at_between_steps() -> None:
    detector = build_detector(SMALL, trained(SMALL))
    assert detector.searches
    pixels, shares = to_pixels(with_lesions(blots(20, seed=1003))), list[float]()
    with looked_at(shares.append):
        scored = detector(pixels)
    assert shares == sorted(shares)
    assert len(shares) == 2 * SMALL.steps  # two groups of 16
    assert shares[-1] == pytest.approx(1)
    seen, shown = scored.pictures([0, 3])
    assert shown is not None
    change = np.abs(seen.astype(float) - shown).mean((1, 2, 3)) / 127.5
    np.testing.assert_allclose(change, scored.score[[0, 3]], atol=1 / 127.5)


def test_without_tiles_nothing_is_chosen_and_nothing_is_scored() -> None:
    networks = build_networks(SMALL)
    trainee = build_trainee(SMALL, networks)
    with pytest.raises(UnsuitableTilesError, match="0 normal tiles"):
        trainee.finish()
    with pytest.raises(WorkError, match="was not chosen"):
        RestorationMap(SMALL, networks)(blots(1, seed=0))


def test_a_given_lambda_is_not_chosen() -> None:
    config = SMALL.model_copy(update={"tv_weight": 0.5})
    networks = build_networks(config)
    trainee = build_trainee(config, networks)
    assert trainee.phases == ("autoencoder",)
    assert "loss" in trainee.step(smooth_pictures(), 0.999)
    trainee.finish()
    assert float(networks["tv_weight"].get_buffer("weight")) == 0.5


@pytest.mark.parametrize("config", [SMALL, MIXTURE], ids=lambda config: config.prior)
def test_every_phase_moves_what_it_may(config: restoration.Config) -> None:
    networks = build_networks(config)
    trainee = build_trainee(config, networks)
    assert isinstance(trainee, Trainee)
    x = smooth_pictures()
    networks["tv_weight"].get_buffer("weight").zero_()  # NaN differs from itself
    trainee.prepare(x)
    of_normals = (x - x.mean((0, 2, 3), keepdim=True)).square().mean()
    torch.testing.assert_close(trainee.observation.variance(), of_normals)
    before = state_of(networks)
    trainee.step(x, 0.0)
    assert moved(networks, before) == set(networks) - {"tv_weight"}
    before = state_of(networks)
    assert len(trainee.step(x, 0.96)) == len(config.tv_weights)
    assert moved(networks, before) == {"tv_weight"}
    trainee.step(x, 0.97)
    assert trainee.counts == {"restored_tiles": 4}
    assert trainee.step(x, 0.98) == {}  # four tiles are enough


def test_the_loss_is_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mixture's c prior is cut in training, the VAE has nothing to cut."""
    x = smooth_pictures()
    for config, cut in ((SMALL, False), (MIXTURE, True)):
        torch.manual_seed(0)
        networks = build_networks(config)
        noise = torch.randn(len(x), config.noise_dim)
        monkeypatch.setattr(restoration, "drawn_noise", lambda *sizes, noise=noise: noise)
        with torch.no_grad():
            elbo = restoration.elbo_of(config, networks)(x, noise)
        losses = {name: float(value) for name, value in build_trainee(config, networks).step(x, 0.0).items()}
        c_prior = losses.get("c_prior", 0.0)
        assert losses["loss"] >= -float(elbo.mean()) - 1e-3
        if cut:
            assert c_prior < restoration.CLUSTER_NATS
            assert losses["loss"] == pytest.approx(-float(elbo.mean()) + restoration.CLUSTER_NATS - c_prior, rel=1e-5)
        else:
            assert losses["loss"] == pytest.approx(-float(elbo.mean()), rel=1e-5)


def test_the_squared_difference() -> None:
    x = torch.zeros(1, 3, 2, 2)
    restored_ = x.clone()
    restored_[0, :, 0, 1] = torch.tensor([0.1, 0.2, 0.3])
    score, residual = PixelResidual("squared")(x, restored_, restored_)
    torch.testing.assert_close(residual[0], torch.tensor([[0.0, 0.14 / 3], [0.0, 0.0]]))
    torch.testing.assert_close(score, torch.tensor([0.14 / 12]))


@pytest.mark.parametrize("values", [{"input_px": 48}, {"tv_weights": []}, {"tv_weight": -1}, {"components": 10_000}])
def test_configurations_that_cannot_be_built(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        restoration.Config.model_validate({"kind": "restoration"} | values)
