"""OCGAN: whose losses move whom, and latents that are looked for."""

import copy
from collections.abc import Callable, Iterable

import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor, nn

from uadray.detectors import ocgan
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.ocgan import PLAYERS, Trainee, informative_negatives
from uadray.detectors.pixels import to_pixels

pytestmark = pytest.mark.usefixtures("torch_alone")

OCGAN = ocgan.Config(
    kind="ocgan", input_px=16, width=4, critic_width=4, latent_dim=4, learning_rate=2e-3, mining_steps=3
)  # fmt: skip


@pytest.fixture
def x() -> Tensor:
    return smooth_pictures()


def trainee_of(config: ocgan.Config) -> Trainee:
    torch.manual_seed(0)
    trainee = build_trainee(config, build_networks(config))
    assert isinstance(trainee, Trainee)
    return trainee


def cross_entropy(logits: Tensor, label: float) -> Tensor:
    """-log of the probability of the label, one sample after the other."""
    p = [1 / (1 + torch.exp(-logit)) for logit in logits]
    return sum((-torch.log(q if label else 1 - q) for q in p), torch.zeros(())) / len(p)


@pytest.mark.parametrize("values", [{"input_px": 48}, {"warm_up": 1}, {"mining_steps": 0}, {"critic_width": 1000}])
def test_configurations_that_cannot_be_built(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ocgan.Config.model_validate({"kind": "ocgan"} | values)


def test_latents_and_pictures_are_bounded(x: Tensor) -> None:
    networks = build_networks(OCGAN)
    z = networks["encoder"](100 * x)
    assert z.shape == (8, 4)
    assert 0.5 < z.abs().max() <= 1
    x_hat = networks["decoder"](100 * z)
    assert x_hat.shape == x.shape
    assert x_hat.abs().max() <= 1
    for name, given in (("latent_discriminator", z), ("visual_discriminator", x), ("classifier", x)):
        assert networks[name](given).shape == (8,)


def test_every_part_of_a_step_moves_its_own(x: Tensor) -> None:
    trainee = trainee_of(OCGAN)
    random = 2 * torch.rand(8, 4) - 1
    parts: dict[str, Callable[[], object]] = {
        "classifier": lambda: trainee.classifier_step(x, random),
        "discriminators": lambda: trainee.discriminators_step(x, x, random),
        "autoencoder": lambda: trainee.autoencoder_step(x, x, random),
    }
    for name, part in parts.items():
        before = state_of(trainee.networks)
        part()
        assert moved(trainee.networks, before) == set(PLAYERS[name])
    before = state_of(trainee.networks)
    trainee.negatives(random)
    assert moved(trainee.networks, before) == set()


def test_the_losses_are_the_papers(x: Tensor) -> None:
    """Each against cross entropies written out."""
    trainee = trainee_of(OCGAN)
    net = copy.deepcopy(trainee.networks)
    noisy, random = x + 0.2 * torch.randn_like(x), 2 * torch.rand(8, 4) - 1
    with torch.no_grad():
        code = net["encoder"](noisy)
        repeated, drawn = net["decoder"](code), net["decoder"](random)
        classifier = cross_entropy(net["classifier"](repeated), 1) + cross_entropy(net["classifier"](drawn), 0)
        latent = cross_entropy(net["latent_discriminator"](random), 1)
        latent = latent + cross_entropy(net["latent_discriminator"](code), 0)
        visual = cross_entropy(net["visual_discriminator"](x), 1) + cross_entropy(net["visual_discriminator"](drawn), 0)
    torch.testing.assert_close(trainee.classifier_step(noisy, random), classifier)
    found = trainee.discriminators_step(x, noisy, random)
    torch.testing.assert_close(found, {"latent_discriminator": latent, "visual_discriminator": visual})
    critics = {name: copy.deepcopy(trainee.networks[name]) for name in PLAYERS["discriminators"]}
    code = net["encoder"](noisy)
    error = sum((a - b).square().mean() for a, b in zip(net["decoder"](code), x, strict=True)) / 8
    total = cross_entropy(critics["latent_discriminator"](code), 1) + 10 * error
    total = total + cross_entropy(critics["visual_discriminator"](net["decoder"](random)), 1)
    total.backward()
    trainee.autoencoder_step(x, noisy, random)
    for name in PLAYERS["autoencoder"]:
        for ours, expected in zip(trainee.networks[name].parameters(), net[name].parameters(), strict=True):
            torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-3, atol=1e-5)


def test_negatives_of_a_known_classifier() -> None:
    """One that finds a picture the more normal the higher its sum: latents go down to the corner, and no further."""
    decoder, weights = nn.Identity(), torch.tensor([1.0, -2.0, 0.0])

    class Linear(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ weights

    start = torch.tensor([[0.5, 0.1, 0.3], [0.0, 0.0, -0.2]])
    after_one = informative_negatives(decoder, Linear(), start, steps=1, rate=0.1)
    expected = start - 0.1 * torch.sigmoid(start @ weights)[:, None] * weights
    torch.testing.assert_close(after_one, expected)
    far = informative_negatives(decoder, Linear(), start, steps=200, rate=1.0)
    torch.testing.assert_close(far, torch.tensor([[-1.0, 1.0, 0.3], [-1.0, 1.0, -0.2]]))


def test_negatives_look_less_normal_to_the_classifier(x: Tensor) -> None:
    trainee = trainee_of(OCGAN)
    for _ in range(20):
        trainee.step(x, 0.0)
    random = 2 * torch.rand(8, 4) - 1
    found = trainee.negatives(random)
    assert found.abs().max() <= 1
    assert not found.requires_grad
    with torch.no_grad():
        words = [trainee.networks["classifier"](trainee.networks["decoder"](z)) for z in (random, found)]
    assert (words[1] < words[0]).all()


def test_they_are_looked_for_after_the_warm_up(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    trainee = trainee_of(OCGAN)
    asked: list[int] = []
    plain = trainee.negatives

    def noted(random: Tensor) -> Tensor:
        asked.append(len(random))
        return plain(random)

    monkeypatch.setattr(trainee, "negatives", noted)
    trainee.step(x, 0.49)
    assert asked == []
    trainee.step(x, 0.5)
    assert asked == [8]
    assert trainee.phase(0.49) != trainee.phase(0.5)


def test_workers_are_averaged_before_each_network_moves(x: Tensor) -> None:
    asked: list[int] = []

    def cancel(tensors: Iterable[Tensor]) -> None:
        tensors = list(tensors)
        asked.append(sum(t.numel() for t in tensors))
        for tensor in tensors:
            tensor.zero_()

    trainee = build_trainee(OCGAN, build_networks(OCGAN), average=cancel)
    before = state_of(trainee.networks)
    for progress in (0.0, 0.9):
        trainee.step(x, progress)
    counts = [sum(p.numel() for n in members for p in trainee.networks[n].parameters()) for members in PLAYERS.values()]
    assert asked == 2 * counts
    assert moved(trainee.networks, before) == set()


def test_all_together_learn_to_repeat(x: Tensor) -> None:
    trainee = trainee_of(OCGAN.model_copy(update={"reconstruction_weight": 100.0, "noise": 0.1}))
    errors = [float(trainee.step(x, i / 80)["squared_error"]) for i in range(80)]
    assert sum(errors[-5:]) < 0.75 * sum(errors[:5])


def test_the_score_is_the_squared_error(x: Tensor) -> None:
    networks = trainee_of(OCGAN).networks
    detector = build_detector(OCGAN, networks)
    scored = detector(to_pixels(x))
    (seen,) = detector.inputs(to_pixels(x))
    with torch.no_grad():
        residual = (seen - networks["decoder"](networks["encoder"](seen))) ** 2
    torch.testing.assert_close(torch.from_numpy(scored.score).float(), residual.mean((1, 2, 3)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.from_numpy(scored.maps([1])[0]), residual[1].mean(0), rtol=1e-4, atol=1e-6)
