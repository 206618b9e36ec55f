"""VQ-VAE: whose weights a step moves, what its scores are, and what it finds where the answer is known."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from lockstep import means_over
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from uadray.detectors import vq_vae
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.pixels import to_pixels
from uadray.detectors.vq_vae import Trainee
from uadray.networks.codebook import Codebook, commitment_loss

pytestmark = pytest.mark.usefixtures("torch_alone")

VQ_VAE = vq_vae.Config(
    kind="vq_vae", input_px=16, width=8, halvings=2, codes=12, code_dim=4, prior_width=16, prior_layers=1,
    prior_heads=2, decay=0.8, sample_threshold=None, learning_rate=1e-2, prior_learning_rate=1e-2,
)  # fmt: skip


@pytest.fixture
def x() -> Tensor:
    return smooth_pictures()


def trainee_of(config: vq_vae.Config, x: Tensor) -> Trainee:
    torch.manual_seed(0)
    trainee = build_trainee(config, build_networks(config))
    assert isinstance(trainee, Trainee)
    trainee.prepare(x)
    return trainee


@pytest.mark.parametrize(
    "values",
    [{"input_px": 60}, {"input_px": 512, "halvings": 3}, {"prior_heads": 3}, {"mean_px": 4}, {"codes": 10**6}],
)
def test_configurations_that_cannot_be_built(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        vq_vae.Config.model_validate({"kind": "vq_vae"} | values)


def test_each_phase_moves_what_it_may(x: Tensor) -> None:
    trainee = trainee_of(VQ_VAE, x)
    before = state_of(trainee.networks)
    assert trainee.phase(0.49) == "autoencoder"
    trainee.step(x, 0.49)
    assert moved(trainee.networks, before) == {"encoder", "decoder", "codebook"}
    before = state_of(trainee.networks)
    assert trainee.phase(0.5) == "prior"
    trainee.step(x, 0.5)
    assert moved(trainee.networks, before) == {"prior", "histogram"}


def test_the_steps_gradients_are_those_of_the_loss_written_out(x: Tensor) -> None:
    """The encoder's: straight through of the reconstruction, and beta of the commitment (eq. 3)."""
    trainee = trainee_of(VQ_VAE, x)
    encoder, decoder = copy.deepcopy(trainee.encoder), copy.deepcopy(trainee.decoder)
    codebook: Codebook = copy.deepcopy(trainee.codebook)
    trainee.autoencoder_step(x)
    h = encoder(x)
    q = codebook.lookup(codebook(h)).requires_grad_()
    reconstruction = (decoder(q) - x).abs().mean()
    (by_q,) = torch.autograd.grad(reconstruction, q, retain_graph=True)
    reconstruction.backward()
    by_h = by_q + 0.25 * 2 * (h - q).detach() / h.numel()
    h.backward(by_h)
    for ours, expected in ((trainee.encoder, encoder), (trainee.decoder, decoder)):
        for found, wanted in zip(ours.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-4, atol=1e-6)


def test_two_workers_learn_as_one_with_all_tiles(x: Tensor) -> None:
    config = VQ_VAE.model_copy(update={"restarts": False})
    start = trainee_of(config, x).networks
    means = means_over(2)

    def worker(rank: int, part: Tensor) -> Trainee:
        trainee = Trainee(config, copy.deepcopy(start), average=means(rank))
        for progress in (0.1, 0.2, 0.6, 0.7):
            trainee.step(part, progress)
        return trainee

    with ThreadPoolExecutor(2) as workers:
        two = [future.result() for future in [workers.submit(worker, i, p) for i, p in enumerate(x.split(4))]]
    one = Trainee(config, copy.deepcopy(start), average=lambda _: None)
    for progress in (0.1, 0.2, 0.6, 0.7):
        one.step(x, progress)
    for name, network in one.networks.items():
        for key, expected in network.state_dict().items():
            found = [trainee.networks[name].state_dict()[key] for trainee in two]
            assert torch.equal(found[0], found[1]), (name, key)
            torch.testing.assert_close(found[0], expected, rtol=1e-3, atol=1e-4)


def test_workers_agree_on_codes_that_start_again(x: Tensor) -> None:
    start = trainee_of(VQ_VAE, x).networks
    start["codebook"].vectors[6:] += 100  # type: ignore[operator, index]
    config, means = VQ_VAE.model_copy(update={"decay": 0.0}), means_over(2)

    def worker(rank: int, part: Tensor) -> Tensor:
        trainee = Trainee(config, copy.deepcopy(start), average=means(rank))
        trainee.step(part, 0.1)
        return trainee.codebook.vectors

    with ThreadPoolExecutor(2) as workers:
        found = [future.result() for future in [workers.submit(worker, i, p) for i, p in enumerate(x.split(4))]]
    assert torch.equal(found[0], found[1])
    assert found[0].abs().max() < 50


def test_the_score_is_the_sum_of_the_codes_nll(x: Tensor) -> None:
    networks = trainee_of(VQ_VAE, x).networks
    detector = build_detector(VQ_VAE, networks)
    pixels = to_pixels(x)
    scored = detector(pixels)
    (seen,) = detector.inputs(pixels)
    with torch.no_grad():
        codes = networks["codebook"](networks["encoder"](seen)).flatten(1)
        nll = F.cross_entropy(networks["prior"](codes).transpose(1, 2), codes, reduction="none")
    torch.testing.assert_close(torch.from_numpy(scored.score).float(), nll.sum(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.from_numpy(scored.maps([0, 3])), nll[[0, 3]].view(2, 4, 4), rtol=1e-4, atol=1e-4)
    some = build_detector(VQ_VAE.model_copy(update={"sample_threshold": 2.5}), networks)(pixels)
    expected = torch.where(nll > 2.5, nll, 0).sum(1)
    torch.testing.assert_close(torch.from_numpy(some.score).float(), expected, rtol=1e-4, atol=1e-4)
    assert 0 < expected.sum() < nll.sum()
    pictures = scored.pictures([0])[1]
    assert pictures is not None
    assert pictures.shape == (1, 16, 16, 3)


def test_it_learns_and_textures_that_were_never_seen_are_improbable() -> None:
    """Learned: smooth pictures. Stripes of the same colours are no neighbours that it has seen."""
    normal = smooth_pictures(64)
    stripes = normal[:16] * torch.tensor([1.0, -1.0]).repeat(8)
    trainee = trainee_of(VQ_VAE, normal)
    lines = [trainee.step(normal[torch.randint(48, (16,))], i / 180) for i in range(180)]
    assert float(lines[89]["reconstruction"]) < 0.9 * float(lines[0]["reconstruction"])
    assert float(lines[89]["perplexity"]) > 4
    assert float(lines[-1]["nll"]) < 0.95 * float(lines[90]["nll"])
    pixels = to_pixels(torch.cat([normal[48:], stripes]))
    for name in ("codes", "reconstruction"):
        scores = build_detector(VQ_VAE.model_copy(update={"score": name}), trainee.networks)(pixels).score
        lowest_of_stripes = sorted(scores[16:])[4]
        assert (scores[:16] < lowest_of_stripes).mean() > 0.7, name


def test_losses_are_those_of_the_paper(x: Tensor) -> None:
    trainee = trainee_of(VQ_VAE, x)
    h = trainee.encoder(x)
    q = trainee.codebook.lookup(trainee.codebook(h))
    told = trainee.autoencoder_step(x)
    assert float(told["commitment"]) == pytest.approx(float(commitment_loss(h, q).detach()), rel=1e-4)


def test_other_networks_are_refused(x: Tensor) -> None:
    networks = build_networks(VQ_VAE) | {"codebook": torch.nn.Identity()}
    with pytest.raises(TypeError, match="found Identity"):
        build_trainee(VQ_VAE, networks)
