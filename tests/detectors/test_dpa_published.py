"""The autoencoder's terms, layouts and options of the paper, and that older configurations mean what they did."""

import numpy as np
import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor, nn

from uadray.config import load_config
from uadray.detectors import dpa
from uadray.detectors.autoencoding.adversary import critic_terms
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.losses import l1, perceptual_l1, relative_perceptual_l1
from uadray.networks.autoencoder import Critic
from uadray.networks.bundle_description import bundle_id
from uadray.tiles.spec import TileSpec
from uadray.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("torch_alone")

OLD = dpa.Config(
    kind="dpa", input_px=16, width=4, halvings=2, layers=("block0", "block2"), learning_rate=5e-3, pixel_weight=0.5
)
PUBLISHED = dpa.Config.model_validate(
    {
        "kind": "dpa", "input_px": 32, "width": 4, "halvings": 2, "layers": ["block0", "block2"], "layout": "published",
        "schedule": "constant", "learning_rate": 5e-3,
    }
)  # fmt: skip


def test_an_older_configuration_starts_learns_and_scores_as_it_did() -> None:
    """Numbers of the version before growing, layouts and terms: parameters, three losses, two scores."""
    torch.manual_seed(0)
    networks = build_networks(OLD)
    sums = [
        float(sum(p.detach().double().abs().sum() for p in networks[n].parameters())) for n in ("encoder", "decoder")
    ]
    assert sums == pytest.approx([224.44814272494477, 237.16822156070702], rel=1e-12)
    assert "layers.1.residual.0.num_batches_tracked" in networks["encoder"].state_dict()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    trainee = build_trainee(OLD, networks)
    assert trainee.phases == ("autoencoder",)
    trainee.prepare(x)
    losses = [float(trainee.step(x, i / 3)["loss"]) for i in range(3)]
    assert losses == pytest.approx([1.838984727859497, 1.76027250289917, 1.7014639377593994], rel=1e-5)
    score = build_detector(OLD, networks)(pixels).score
    np.testing.assert_allclose(score[:2], [1.196419, 1.24654245], rtol=1e-4)


def test_an_older_bundle_keeps_its_id() -> None:
    assert bundle_id("0" * 64, OLD, TileSpec(mpp=1.0, tile_px=16)) == "d0b6b158cff7"


def test_relative_perceptual_l1_in_numpy() -> None:
    f, f_hat = [torch.randn(3, 4, 5, 5), torch.randn(3, 2, 3, 3)], [torch.randn(3, 4, 5, 5), torch.randn(3, 2, 3, 3)]
    expected = np.zeros(3)
    for layer, layer_hat in zip(f, f_hat, strict=True):
        for n in range(3):
            difference = np.abs(layer[n].numpy() - layer_hat[n].numpy()).sum()
            expected[n] += difference / np.abs(layer[n].numpy()).sum() / 2
    np.testing.assert_allclose(relative_perceptual_l1(f, f_hat).numpy(), expected, rtol=1e-5)
    plain = [
        np.mean([np.abs(a[n].numpy() - b[n].numpy()).mean() for a, b in zip(f, f_hat, strict=True)]) for n in range(3)
    ]
    np.testing.assert_allclose(perceptual_l1(f, f_hat).numpy(), plain, rtol=1e-5)
    np.testing.assert_allclose(l1(torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), -0.5)).numpy(), [0.5, 0.5])


def test_the_published_layout_has_as_many_channels_everywhere_and_no_batch_norm() -> None:
    torch.manual_seed(0)
    networks = build_networks(PUBLISHED)
    for name, n_blocks in (("encoder", 6), ("decoder", 6)):
        modules = list(networks[name].modules())
        assert not any(isinstance(m, nn.BatchNorm2d) for m in modules)
        convolutions = [m for m in modules if isinstance(m, nn.Conv2d)]
        assert {m.out_channels for m in convolutions} - {3} == {4}
        assert len(convolutions) == 2 * n_blocks + 2
    wide = build_networks(PUBLISHED.model_copy(update={"width": 64}))
    weight = wide["encoder"].get_parameter("layers.1.residual.1.weight").detach()
    assert float(weight.std()) == pytest.approx((2 / (1 + 0.2**2) / (64 * 9)) ** 0.5, rel=0.02), "He, fan-out"


def test_the_learning_rate_stays_where_the_schedule_is_constant() -> None:
    trainee = build_trainee(PUBLISHED, build_networks(PUBLISHED))
    for progress in (0.0, 0.9):
        trainee.step(smooth_pictures(side_px=32), progress)
        assert trainee.optimizers["adam"].param_groups[0]["lr"] == PUBLISHED.learning_rate


@pytest.mark.parametrize(
    "fields",
    [
        {"perceptual_weight": 0.0, "pixel_weight": 1.0, "pixel_loss": "l1"},
        {"pixel_weight": 0.1, "pixel_loss": "l1"},
        {"relative": False, "normalised": False},
        {"adversarial": {"weight": 0.1}},
    ],
)
def test_each_of_the_papers_terms_learns(fields: dict[str, object]) -> None:
    torch.manual_seed(0)
    config = dpa.Config.model_validate(PUBLISHED.model_dump() | fields)
    networks = build_networks(config)
    before, trainee = state_of(networks), build_trainee(config, networks)
    x = smooth_pictures(side_px=32)
    trainee.prepare(x)
    told = [trainee.step(x, i / 20) for i in range(20)]
    name = "perceptual" if config.perceptual_weight is None else "loss"
    losses = [float(each[name]) for each in told]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    learned = {"encoder", "decoder"} | ({"critic"} if config.adversarial else set())
    assert moved(networks, before) - {"features"} == learned
    assert ("features" in moved(networks, before)) == (config.normalised is None), "their statistics"


def test_the_loss_is_the_sum_of_its_terms_and_scores_as_it_learns() -> None:
    fields = {"perceptual_weight": 0.5, "pixel_weight": 2.0, "pixel_loss": "l1", "score": "loss"}
    config = dpa.Config.model_validate(PUBLISHED.model_dump() | fields)
    networks = build_networks(config)
    trainee, x = build_trainee(config, networks), smooth_pictures(side_px=32)
    trainee.prepare(x)
    with torch.no_grad():
        x_hat = networks["decoder"](networks["encoder"](x))
        f, f_hat = networks["features"](x), networks["features"](x_hat)
        expected = 0.5 * relative_perceptual_l1(f, f_hat) + 2 * (x - x_hat).abs().mean((1, 2, 3))
    _, score, maps = build_detector(config, networks)._scored(x)
    torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-6)
    assert maps.shape == (len(x), 32, 32)
    for name in ("encoder", "decoder"):
        networks[name].requires_grad_()
    assert float(trainee.step(x, 0.0)["loss"]) == pytest.approx(float(expected.mean()), rel=1e-4)


def test_the_critics_penalty_is_that_of_a_critic_whose_gradient_is_known() -> None:
    """Of the critic x -> a . x the gradient is a everywhere: the penalty is (|a| - 1)^2."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.randn(3, 4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return (self.a * x).sum((1, 2, 3))

    critic, x, x_hat = Linear(), torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4)
    wasserstein, penalty, norm = critic_terms(critic, x, x_hat)
    real, fake = ((critic.a * t).sum((1, 2, 3)) for t in (x, x_hat))
    torch.testing.assert_close(wasserstein, fake.mean() - real.mean())
    torch.testing.assert_close(penalty, (critic.a.norm() - 1) ** 2)
    torch.testing.assert_close(norm, (real**2).mean() + (fake**2).mean())


def test_the_critic_sees_samples_apart_and_moves_only_in_its_own_steps() -> None:
    critic = Critic(width=4, input_px=32, blocks=2)
    x = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(critic(x)[:1], critic(x[:1]))
    config = dpa.Config.model_validate(PUBLISHED.model_dump() | {"adversarial": {"critic_steps": 3}})
    trainee = build_trainee(config, build_networks(config))
    told = trainee.step(x, 0.0)
    assert set(told) == {"wasserstein", "gradient_penalty", "perceptual", "loss"}
    assert {int(state["step"]) for state in trainee.optimizers["critic"].state.values()} == {3}
    assert {int(state["step"]) for state in trainee.optimizers["adam"].state.values()} == {1}


@pytest.mark.parametrize("fields", [{}, {"adversarial": {}}, {"pixel_weight": 1.0}])
def test_a_step_in_bfloat16_is_near_that_in_float32(fields: dict[str, object]) -> None:
    config = dpa.Config.model_validate(PUBLISHED.model_dump() | fields)
    x, told = smooth_pictures(side_px=32).to(memory_format=torch.channels_last), []
    for is_lowered in (False, True):
        torch.manual_seed(0)
        networks = build_networks(config)
        for network in networks.values():
            network.to(memory_format=torch.channels_last)
        trainee = build_trainee(config, networks)
        trainee.prepare(x)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_lowered):
            told.append({name: torch.as_tensor(value) for name, value in trainee.step(x, 0.0).items()})
        assert all(torch.isfinite(p.grad).all() for p in networks["encoder"].parameters())
    full, lowered = told
    assert {value.dtype for value in lowered.values()} == {torch.float32}, "distances are summed in float32"
    assert not any(value.requires_grad for value in lowered.values())
    assert float(lowered["perceptual"]) == pytest.approx(float(full["perceptual"]), rel=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: what runs on one was not tested")
@pytest.mark.parametrize("fields", [{}, {"adversarial": {}}, {"pixel_weight": 1.0, "pixel_loss": "l1"}])
def test_a_step_on_a_gpu_waits_for_nothing(fields: dict[str, object]) -> None:
    config = dpa.Config.model_validate(PUBLISHED.model_dump() | fields)
    networks = build_networks(config)
    for network in networks.values():
        network.to("cuda").to(memory_format=torch.channels_last)
    trainee, x = build_trainee(config, networks), smooth_pictures(side_px=32).to("cuda")
    trainee.prepare(x)
    trainee.step(x, 0.0)
    try:
        torch.cuda.set_sync_debug_mode("error")
        with torch.autocast("cuda", torch.bfloat16):
            told = trainee.step(x, 0.1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.as_tensor(value).isfinite() for value in told.values())


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"perceptual_weight": 0}, "nothing would be learned"),
        ({"autoencoder": "bundles/a"}, "autoencoder is for score mahalanobis"),
        ({"adversarial": {"critic_steps": 1000}}, "less than or equal to 100"),
        ({"width": 1}, "greater than or equal to 2"),
    ],
)
def test_options_that_do_not_go_together(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        dpa.Config.model_validate(PUBLISHED.model_dump() | fields)


def test_the_published_configurations_are_the_papers() -> None:
    from uadray.bench.detector_rows import config_folder

    published, growing = (load_config(TrainConfig, config_folder() / f"dpa_{n}.yaml") for n in ("published", "growing"))
    assert published.epochs * published.steps_per_epoch == pytest.approx(34_666, rel=1e-3)
    assert growing.epochs * growing.steps_per_epoch == pytest.approx(88_666, rel=1e-2)
    assert isinstance(growing.detector, dpa.Config)
    assert growing.detector.model_copy(update={"growing": None}) == published.detector
    assert [r.side_px for r in growing.detector.growing or ()] == [16, 32, 64]
    latent = build_networks(PUBLISHED.model_copy(update={"input_px": 64, "halvings": 3}))["encoder"]
    assert latent(torch.zeros(1, 3, 64, 64)).shape == (1, 4, 8, 8)
