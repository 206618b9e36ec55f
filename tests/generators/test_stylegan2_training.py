"""StyleGAN2 in training: losses against closed forms, what each of the four steps moves, and when it is due."""

import copy
import math
from collections.abc import Iterable

import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor, nn

from uadray.detectors.trainee import alone
from uadray.generators import gan_losses, stylegan2
from uadray.generators.augmentation import AdaConfig
from uadray.networks.outline import Networks

pytestmark = pytest.mark.usefixtures("torch_alone")

GAN = stylegan2.Config(
    kind="stylegan2", input_px=16, channel_base=128, channel_max=16, latent_dim=8, w_dim=8, mapping_layers=2,
    r1_every=4, path_every=2,
)  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture
def x() -> Tensor:
    return smooth_pictures()


def _trainee(config: stylegan2.Config = GAN, *, seed: int = 0) -> stylegan2.Trainee:
    torch.manual_seed(seed)
    return stylegan2.Trainee(config, stylegan2.networks(config, pretrained=False), average=alone)


def _with(**changed: object) -> stylegan2.Config:
    return stylegan2.Config.model_validate(GAN.model_dump() | changed)


def test_the_discriminator_learns_to_tell(x: Tensor) -> None:
    trainee = _trainee()
    losses = [trainee.discriminator_step(x)["discriminator"].item() for _ in range(25)]
    assert abs(losses[0] - 2 * math.log(2)) < 0.5
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])


def test_the_generator_learns_to_please_the_discriminator() -> None:
    trainee = _trainee()
    losses = [trainee.generator_step(8, CPU)["generator"].item() for _ in range(25)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (lambda t, x: t.discriminator_step(x), {"discriminator"}),
        (lambda t, x: t.r1_step(x), {"discriminator"}),
        (lambda t, x: t.generator_step(len(x), CPU), {"generator"}),
        (lambda t, x: t.path_length_step(4, CPU), {"generator"}),
        (lambda t, x: t.step(x, 0.0), {"discriminator", "generator", "average"}),
    ],
)
def test_each_step_moves_its_own_network(x: Tensor, step: object, expected: set[str]) -> None:
    trainee = _trainee()
    before = state_of(trainee.networks)
    step(trainee, x)  # type: ignore[operator]
    assert moved(trainee.networks, before) == expected
    assert all(p.grad is None for network in trainee.networks.values() for p in network.parameters())


def test_lazy_terms_are_due_by_the_count_of_steps(x: Tensor) -> None:
    trainee = _trainee()
    names = [set(trainee.step(x, 0.0)) for _ in range(5)]
    assert ["r1" in n for n in names] == [True, False, False, False, True]
    assert ["path_length_penalty" in n for n in names] == [True, False, True, False, True]
    assert all({"discriminator", "generator"} <= n for n in names)
    trainee.counts["steps"] = 7
    assert {"r1", "path_length_penalty"}.isdisjoint(trainee.step(x, 0.0))


def test_what_has_no_weight_is_left_out(x: Tensor) -> None:
    trainee = _trainee(_with(r1_gamma=0, path_weight=0))
    assert set(trainee.step(x, 0.0)) == {"discriminator", "generator"}
    assert [o.param_groups[0]["lr"] for o in trainee.optimizers.values()] == [0.002, 0.002]


def test_adam_is_corrected_for_lazy_terms() -> None:
    """C = k / (k + 1): the rate times c, betas to the power of c (appendix B)."""
    trainee = _trainee(_with(r1_every=16, path_every=8))
    got = {n: (o.param_groups[0]["lr"], o.param_groups[0]["betas"]) for n, o in trainee.optimizers.items()}
    assert got == {
        "generator": (pytest.approx(0.002 * 8 / 9), (0.0, pytest.approx(0.99 ** (8 / 9)))),
        "discriminator": (pytest.approx(0.002 * 16 / 17), (0.0, pytest.approx(0.99 ** (16 / 17)))),
    }


def test_r1_weighs_as_much_as_its_interval(x: Tensor) -> None:
    """The gradient of a lazy step is `r1_every` gamma / 2 times that of E ||grad D(x)||^2, by finite differences."""
    config = _with(r1_gamma=3.0)
    trainee = _trainee(config)
    for network in trainee.networks.values():
        network.double()
    x = x.double()
    gradients: list[Tensor] = []
    trainee.average = lambda tensors: gradients.extend(t.clone() for t in tensors)
    weight = trainee.discriminator.last_conv.weight
    before = weight.detach().clone()
    penalties = []
    for change in (0.0, 1e-5, -1e-5):
        with torch.no_grad():
            weight.copy_(before)
            weight[0, 0, 1, 1] += change
        real = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(trainee.discriminator(real).sum(), real)
        penalties.append(slope.square().flatten(1).sum(dim=1).mean().item())
    with torch.no_grad():
        weight.copy_(before)
    reported = trainee.r1_step(x)["r1"].item()
    shapes = [g.shape for g in gradients]
    slope_of_weight = gradients[shapes.index(weight.shape)][0, 0, 1, 1].item()
    assert reported == pytest.approx(3.0 / 2 * penalties[0])
    assert slope_of_weight == pytest.approx(4 * 3.0 / 2 * (penalties[1] - penalties[2]) / 2e-5, rel=1e-4)


def test_gamma_by_the_rule_of_the_ada_paper() -> None:
    assert _trainee().gamma(32) == pytest.approx(0.0002 * 16**2 / 32)
    assert _trainee(_with(r1_gamma=10.0)).gamma(32) == 10


def test_path_lengths_of_a_linear_generator() -> None:
    """Pictures M_1 w_1 + ... + M_L w_L: the squared length is the mean over layers of ||M_i^T y||^2 over the pixels."""
    styles, dim, side = 3, 5, 4
    matrices = torch.randn(styles, 3 * side * side, dim, dtype=torch.float64)
    w = torch.randn(6, styles, dim, dtype=torch.float64, requires_grad=True)
    pictures = torch.einsum("lpd,nld->np", matrices, w).view(6, 3, side, side)
    state = torch.get_rng_state()
    lengths = gan_losses.path_lengths(w, pictures)
    torch.set_rng_state(state)
    y = torch.randn_like(pictures).flatten(1)
    expected = torch.stack([(y @ m).square().sum(dim=1) for m in matrices]).mean(dim=0) / side**2
    torch.testing.assert_close(lengths, expected.sqrt())
    mean = torch.tensor(2.0, dtype=torch.float64)
    penalty = gan_losses.path_length_penalty(lengths, mean)
    torch.testing.assert_close(penalty, ((expected.sqrt() - 2) ** 2).sum() / 6)


def test_the_weight_of_path_lengths_is_the_papers() -> None:
    """2 (|J^T y| as scaled here)^2 is ln 2 / (r^2 (ln r - ln 2)) ||J^T y||^2, at any r."""
    for side_px in (16, 256, 1024):
        n_styles = 2 * math.log2(side_px) - 2
        ours = 2 / side_px**2 / n_styles
        assert ours == pytest.approx(math.log(2) / (side_px**2 * (math.log(side_px) - math.log(2))))


def test_the_mean_path_length_follows() -> None:
    trainee = _trainee(_with(path_decay=0.25))
    trainee.generator.path_length.fill_(2.0)
    seen: list[Tensor] = []
    original = gan_losses.path_lengths

    def watched(w: Tensor, pictures: Tensor) -> Tensor:
        seen.append(original(w, pictures))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gan_losses, "path_lengths", watched)
        losses = trainee.path_length_step(4, CPU)
    followed = 0.75 * 2.0 + 0.25 * seen[0].mean()
    torch.testing.assert_close(losses["path_length"], followed.detach())
    torch.testing.assert_close(trainee.generator.path_length, followed.detach())
    torch.testing.assert_close(losses["path_length_penalty"], 2 * (seen[0] - followed).square().mean().detach())


def test_the_mean_w_is_what_truncation_goes_to() -> None:
    trainee = _trainee(_with(w_decay=0.9, path_weight=0))
    trainee.optimizers["generator"].param_groups[0]["lr"] = 0.0
    for _ in range(40):
        trainee.generator_step(16, CPU)
    with torch.no_grad():
        mean = trainee.generator.mapping(torch.randn(20_000, 8)).mean(dim=0)
        spread = trainee.generator.mapping(torch.randn(20_000, 8)).std()
    assert (trainee.generator.mean_w - mean).abs().max() < 0.25 * spread


def test_truncation_0_gives_the_mean_picture(x: Tensor) -> None:
    trainee = _trainee()
    trainee.step(x, 0.0)
    networks = trainee.networks
    z = stylegan2.latents(GAN, 3, rng=torch.Generator().manual_seed(1))
    w = stylegan2.styles(GAN, networks, z, truncation=0.0)
    average = networks["average"]
    assert isinstance(average, stylegan2.Generator)
    assert average.mean_w.abs().sum() > 0
    mean = average.synthesis(average.mean_w.expand(1, average.n_styles, -1), noise=average.fixed_noise()).clamp(-1, 1)
    torch.testing.assert_close(stylegan2.pictures(GAN, networks, w), mean.expand(3, -1, -1, -1))
    whole = stylegan2.styles(GAN, networks, z)
    torch.testing.assert_close(whole, average.mapping(z)[:, None].expand_as(whole))


def test_pictures_do_not_depend_on_their_batch(x: Tensor) -> None:
    """Nor on when they are drawn; and they can be derived by their styles."""
    trainee = _trainee()
    trainee.step(x, 0.0)
    torch.nn.init.constant_(trainee.networks["average"].layers[1].strength, 0.5)  # type: ignore[union-attr, index]
    z = stylegan2.latents(GAN, 5, rng=torch.Generator().manual_seed(1))
    w = stylegan2.styles(GAN, trainee.networks, z)
    together = stylegan2.pictures(GAN, trainee.networks, w)
    one_by_one = torch.cat([stylegan2.pictures(GAN, trainee.networks, part) for part in w.split(1)])
    torch.testing.assert_close(together, one_by_one)
    assert together.abs().max() <= 1
    leaf = w.detach().requires_grad_()
    stylegan2.pictures(GAN, trainee.networks, leaf).sum().backward()
    assert leaf.grad is not None
    assert (leaf.grad.flatten(2).abs().sum(dim=2) > 0).all()


def test_styles_are_mixed_at_a_layer_of_each_picture() -> None:
    first, second = torch.zeros(4000, 2), torch.ones(4000, 2)
    w = stylegan2.mixed(first, second, 6, share=0.9)[..., 0]
    assert ((w[:, 1:] - w[:, :-1]) >= 0).all()  # `first`, then `second`
    assert (w[:, 0] == 0).all()
    is_mixed = w[:, -1] == 1
    assert abs(is_mixed.float().mean().item() - 0.9) < 0.02
    crossover = (6 - w[is_mixed].sum(dim=1)).long()
    shares = torch.bincount(crossover, minlength=6)[1:] / len(crossover)
    torch.testing.assert_close(shares, torch.full((5,), 0.2), atol=0.03, rtol=0)


def test_the_average_follows_by_its_half_life(x: Tensor) -> None:
    trainee = _trainee(_with(half_life_images=16))
    assert trainee.average_decay(16) == 0.5
    average, generator = trainee.networks["average"], trainee.generator
    before = [p.clone() for p in average.parameters()]
    trainee.step(x, 0.0)
    share = 0.5 ** (8 / 16)
    expected = [share * old + (1 - share) * new for old, new in zip(before, generator.parameters(), strict=True)]
    torch.testing.assert_close([p.detach() for p in average.parameters()], [p.detach() for p in expected])


def test_the_averages_half_life_begins_short() -> None:
    trainee = _trainee(_with(average_ramp=0.05))
    assert trainee.average_decay(8) == 0
    trainee.counts["images_shown"] = 3200
    assert trainee.average_decay(160) == 0.5
    trainee.counts["images_shown"] = 10**7
    assert trainee.average_decay(10_000) == 0.5


def test_parts_of_a_batch_give_the_gradients_of_the_whole(x: Tensor) -> None:
    """Of R1, where nothing is drawn, and without the minibatch deviation, which is within a part."""
    gradients: list[list[Tensor]] = []
    for accumulate in (1, 4):
        trainee = _trainee(_with(accumulate=accumulate))
        with torch.no_grad():
            trainee.discriminator.last_conv.weight[:, -1] = 0
        gradients.append([])
        trainee.average = lambda tensors: gradients[-1].extend(t.clone() for t in tensors)
        trainee.r1_step(x)
    deviation = [g.shape for g in gradients[0]].index(trainee.discriminator.last_conv.weight.shape)
    for whole, parts in zip(*gradients, strict=True):
        if whole is not gradients[0][deviation]:
            torch.testing.assert_close(whole, parts, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_batch_is_taken_in_parts(x: Tensor, accumulate: int) -> None:
    trainee = _trainee(_with(accumulate=accumulate))
    assert all(math.isfinite(v.item()) for v in trainee.step(x, 0.0).values())


def test_workers_average_what_follows_means_too() -> None:
    """The mean w and the mean path length are sent with the gradients: workers keep the same generator."""
    trainee = _trainee()
    sent: list[Tensor] = []

    def average(tensors: Iterable[Tensor]) -> None:
        sent.extend(tensors)

    trainee.average = average
    trainee.generator_step(4, CPU)
    assert any(t is trainee.generator.mean_w for t in sent)
    trainee.path_length_step(2, CPU)
    assert any(t is trainee.generator.path_length for t in sent)


def test_pictures_are_augmented_before_they_are_scored(x: Tensor) -> None:
    """And p follows the scores of real ones, by the images shown."""
    trainee = _trainee(_with(ada=AdaConfig(images=64, interval=2, target=-0.9)))
    seen: list[int] = []
    trainee.networks["augmentation"].register_forward_hook(lambda _, inputs, y: seen.append(len(y)))
    ps = []
    for _ in range(5):
        losses = trainee.step(x, 0.0)
        trainee.counts["images_shown"] = trainee.counts.get("images_shown", 0) + len(x)
        ps.append(losses["ada_p"].item() if "ada_p" in losses else None)
    assert len(seen) == 5 * 3 + 2  # real, generated, generated again; R1 in steps 0 and 4
    assert [p is None for p in ps] == [True, False, True, False, True]
    assert ps[1] == pytest.approx(8 / 64)  # what was shown when the second step began
    assert ps[3] == pytest.approx(24 / 64)


def test_a_training_that_goes_on_takes_the_steps_of_one_that_never_stopped(x: Tensor) -> None:
    """Networks, optimizers and counts are all there is to it."""
    trainee = _trainee()
    trainee.step(x, 0.0)
    networks: Networks = stylegan2.networks(GAN, pretrained=False)
    for name, network in networks.items():
        network.load_state_dict(trainee.networks[name].state_dict())
    other = stylegan2.Trainee(GAN, networks, average=alone)
    for name, optimizer in other.optimizers.items():
        optimizer.load_state_dict(copy.deepcopy(trainee.optimizers[name].state_dict()))
    other.counts.update(trainee.counts)
    results = []
    for each in (trainee, other):
        torch.manual_seed(5)
        results.append([each.step(x, 0.0) for _ in range(3)])
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_in_bfloat16_gradients_point_the_same_way(x: Tensor) -> None:
    """Of all four steps: what is sensitive (demodulation, the mapping network, the last layers) stays in float32."""
    steps = (
        lambda t: t.discriminator_step(x),
        lambda t: t.r1_step(x),
        lambda t: t.generator_step(8, CPU),
        lambda t: t.path_length_step(8, CPU),
    )
    for step in steps:
        gradients = []
        for is_lowered in (False, True):
            trainee = _trainee()
            sent: list[Tensor] = []
            trainee.average = lambda tensors, sent=sent: sent.extend(t.flatten().clone() for t in tensors)
            torch.manual_seed(3)
            with torch.autocast("cpu", torch.bfloat16, enabled=is_lowered):
                step(trainee)
            assert all(t.dtype is torch.float32 for t in sent)
            gradients.append(torch.cat(sent))
        assert nn.functional.cosine_similarity(*gradients, dim=0) > 0.99
        assert 0.95 < gradients[1].norm() / gradients[0].norm() < 1.05


@pytest.mark.parametrize("given", [{"input_px": 48}, {"input_px": 8}, {"r1_gamma": -1}, {"r1_gamma": "some"}])
def test_what_cannot_be_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        _with(**given)
    with pytest.raises(ValidationError, match="leaves no channels"):
        _with(input_px=1024, channel_base=512)


def test_people_are_shown_the_same_latents_every_time(x: Tensor) -> None:
    """And the training's random numbers are left alone."""
    trainee = _trainee()
    state = torch.get_rng_state()
    first = trainee.reconstruct(x)
    assert torch.equal(first, trainee.reconstruct(x))
    assert first.shape == x.shape
    assert torch.equal(state, torch.get_rng_state())
