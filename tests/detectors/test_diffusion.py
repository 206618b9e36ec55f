"""The detector by diffusion: its loss, its phases, what it reconstructs, and that tiles do not see each other."""

import copy
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor

from uadray.detectors import diffusion
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.denoising.partial_diffusion import NoiseKind, PartialDiffusion, fixed_noise, noise_like
from uadray.detectors.denoising.schedule import noised, signal_shares
from uadray.detectors.diffusion import Trainee, simple_loss
from uadray.detectors.inversion.interruption import looked_at
from uadray.detectors.pixels import to_pixels
from uadray.networks.outline import Networks

pytestmark = pytest.mark.usefixtures("torch_alone")

SMALL = diffusion.Config(
    kind="diffusion", input_px=16, width=8, halvings=2, attention_halvings=2, levels=(100, 300), steps=3,
    learning_rate=3e-3,
)  # fmt: skip


@pytest.fixture
def x() -> Tensor:
    return smooth_pictures(16)


def trainee_of(config: diffusion.Config) -> Trainee:
    torch.manual_seed(0)
    trainee = build_trainee(config, build_networks(config))
    assert isinstance(trainee, Trainee)
    return trainee


def trained(config: diffusion.Config, x: Tensor, steps: int = 3) -> Networks:
    trainee = trainee_of(config)
    for _ in range(steps):
        trainee.step(x, 0.0)
    trainee.step(x, 0.99)
    trainee.finish()
    return trainee.networks


@pytest.mark.parametrize(
    "values",
    [
        {"input_px": 36}, {"levels": [300, 100]}, {"levels": [100, 100]}, {"levels": [2000]}, {"levels": []},
        {"residuals": ["mse", "mse"]}, {"width": 6}, {"width": 1000},
    ],
)  # fmt: skip
def test_configurations_that_cannot_be_built(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        diffusion.Config.model_validate({"kind": "diffusion"} | values)


def test_the_loss_is_the_papers(x: Tensor) -> None:
    """Mean squared error of the noise, image by image: || eps - eps_theta(sqrt(a) x + sqrt(1 - a) eps, t) ||^2."""
    network, shares = trainee_of(SMALL).denoiser, signal_shares("cosine", 1000).float()
    *_, last = network.parameters()  # 0 at the start, as the weights before it
    torch.nn.init.normal_(last)
    noise, t = torch.randn_like(x), torch.randint(1, 1001, (16,))
    each = []
    for i in range(16):
        a = shares[t[i]]
        x_t = a.sqrt() * x[i] + (1 - a).sqrt() * noise[i]
        each.append((noise[i] - network(x_t[None], t[i : i + 1].float())[0]).pow(2).mean())
    found = simple_loss(network, x, noise, t, alpha_bar=shares[t], timesteps=1000)
    torch.testing.assert_close(found, torch.stack(each).mean(), rtol=1e-4, atol=1e-5)


def test_a_step_moves_the_network_and_its_average_alone(x: Tensor) -> None:
    trainee = trainee_of(SMALL)
    for buffer in trainee.normals.buffers():
        buffer.zero_()  # NaN is not equal to itself
    before = state_of(trainee.networks)
    trainee.step(x, 0.0)
    assert moved(trainee.networks, before) == {"denoiser", "average"}
    before = state_of(trainee.networks)
    line = trainee.step(x, 0.99)
    assert set(line) == {"mse_100", "mse_300"}
    assert moved(trainee.networks, before) == {"normals"}


def test_the_average_follows_by_its_half_life(x: Tensor) -> None:
    trainee = trainee_of(SMALL.model_copy(update={"half_life_images": 32.0}))
    trainee.counts |= {"images_shown": 10_000, "averaged_at_images": 9_968}
    old = copy.deepcopy(trainee.networks["average"])
    trainee.step(x, 0.0)
    triples = zip(
        trainee.networks["average"].parameters(), old.parameters(), trainee.denoiser.parameters(), strict=True
    )
    for average, before, now in triples:
        torch.testing.assert_close(average, (before + now.detach()) / 2)


@pytest.fixture(scope="module")
def learned() -> tuple[Networks, list[float]]:
    """Networks after 100 steps on smooth pictures, and the losses."""
    trainee, x = trainee_of(SMALL), smooth_pictures(16)
    losses = [float(trainee.step(x, 0.0)["noise"]) for _ in range(100)]
    trainee.step(x, 0.99)
    trainee.finish()
    return trainee.networks, losses


def test_it_learns_to_tell_noise(learned: tuple[Networks, list[float]]) -> None:
    """1 is what a network that says nothing has."""
    losses = learned[1]
    assert losses[0] == pytest.approx(1, rel=0.1)
    assert sum(losses[-10:]) / 10 < 0.5


def test_long_gradients_are_shortened_after_they_are_averaged(x: Tensor) -> None:
    norms = []

    def tenfold(tensors: Iterable[Tensor]) -> None:
        norms.append(sum(float(t.square().sum()) for t in tensors) ** 0.5)
        for t in tensors:
            t.mul_(1e4)

    trainee = build_trainee(SMALL, build_networks(SMALL), average=tenfold)
    trainee.step(x, 0.0)
    length = sum(float(p.grad.square().sum()) for p in trainee.networks["denoiser"].parameters() if p.grad is not None)
    assert norms[0] > 1e-4
    assert length**0.5 == pytest.approx(1, rel=1e-3)


def test_one_step_is_the_prediction_of_the_image(x: Tensor) -> None:
    """(x_t - sqrt(1 - a) eps) / sqrt(a), clipped; of a network that says nothing x_t / sqrt(a)."""
    shares = signal_shares("cosine", 1000)
    found = PartialDiffusion(
        trainee_of(SMALL).denoiser, shares, levels=(100, 300), steps=1, eta=0.0, noise="gaussian"
    )(x)  # fmt: skip
    for number, level in enumerate((100, 300)):
        a = shares[level].float()
        noise = fixed_noise("gaussian", 16, number, level)
        torch.testing.assert_close(found[:, number], (x + ((1 - a) / a).sqrt() * noise).clamp(-1, 1))


@pytest.mark.parametrize("noise", ["gaussian", "simplex"])
def test_noise_is_fixed_when_scoring_and_drawn_when_training(noise: NoiseKind, x: Tensor) -> None:
    fixed_noise.cache_clear()
    first = fixed_noise(noise, 16, 0, 100).clone()
    fixed_noise.cache_clear()
    assert torch.equal(fixed_noise(noise, 16, 0, 100), first)
    assert not torch.equal(fixed_noise(noise, 16, 1, 100), first)
    assert not torch.equal(fixed_noise(noise, 16, 0, 50), first)
    drawn = noise_like(x, noise)
    assert not torch.equal(noise_like(x, noise), drawn)
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize(
    "more",
    [{}, {"noise": "simplex"}, {"eta": 1.0, "steps": 8}, {"by_contrast": True}, {"residuals": ("mse", "lpips")}],
    ids=str,
)
def test_a_tile_is_alone_in_its_batch(more: dict[str, object], x: Tensor) -> None:
    config = diffusion.Config.model_validate(SMALL.model_dump() | more)
    detector = build_detector(config, trained(config, x))
    tiles = to_pixels(smooth_pictures(9))
    together = detector(tiles)
    alone = np.concatenate([detector(tiles[i : i + 1]).score for i in range(9)])
    np.testing.assert_allclose(together.score, alone, rtol=1e-5, atol=1e-5)
    backwards = detector(tiles[::-1]).score[::-1]
    np.testing.assert_allclose(together.score, backwards, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(together.maps([3])[0].mean(), together.score[3], rtol=0, atol=0.2 if more else 1e-4)


def test_what_was_not_normal_scores_higher(learned: tuple[Networks, list[float]]) -> None:
    """Trained on smooth pictures, it replaces a checkerboard, and more of it from a higher level."""
    networks = learned[0]
    detector = build_detector(SMALL, networks)
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 1.6 - 0.8
    odd, even = to_pixels(board.expand(4, 3, 16, 16).clone()), to_pixels(smooth_pictures(8))
    assert detector(odd).score.min() > detector(even).score.max() + 1
    z = PartialDiffusion(
        networks["average"], signal_shares("cosine", 1000), levels=(100, 300), steps=3, eta=0.0, noise="gaussian"
    )(board.expand(1, 3, 16, 16))  # fmt: skip
    left = (z[0] * board).mean((1, 2, 3)) / board.square().mean()
    assert left[0] > left[1]


def test_its_picture_is_that_of_the_middle_level(x: Tensor) -> None:
    config = SMALL.model_copy(update={"levels": (50, 100, 300)})
    networks = trained(config, x)
    (seen,) = build_detector(config, networks).inputs(to_pixels(x))
    z = diffusion.partial_diffusion(config, networks["average"])(seen)
    assert config.shown == 1
    shown = build_detector(config, networks).pictures(to_pixels(x))[1]
    assert shown is not None
    np.testing.assert_allclose(shown, to_pixels(z[:, 1]), atol=1)


def test_many_passes_are_a_search_that_can_be_looked_at(x: Tensor) -> None:
    config, looks = SMALL.model_copy(update={"steps": 8}), list[float]()
    assert config.passes == 16
    detector = build_detector(config, trained(config, x))
    assert detector.searches
    assert not build_detector(SMALL, trained(SMALL, x)).searches
    with looked_at(looks.append):
        detector(to_pixels(x))
    assert looks == pytest.approx([(i + 1) / 16 for i in range(16)])


def test_noise_hides_more_the_higher_the_level() -> None:
    """Of what the network sees: the correlation with the tile falls."""
    x, shares = smooth_pictures(4), signal_shares("cosine", 1000).float()
    noise = fixed_noise("gaussian", 16, 0, 1)
    shown = [noised(x, noise, shares[level].view(1)) for level in (50, 300, 800)]
    correlations = [float(torch.corrcoef(torch.stack([x.flatten(), s.flatten()]))[0, 1]) for s in shown]
    assert correlations[0] > 0.9 > correlations[1] > 0.5 > correlations[2]
