"""The transforms of adaptive discriminator augmentation against numpy and their inverses, and where its p goes."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from uadray.generators import augmentation
from uadray.generators.augmentation import (
    AdaConfig,
    Augmentation,
    blitted,
    coloured,
    draw_blit,
    draw_colour,
    draw_geometry,
    warped,
)

SIDE = 16


def _pictures(n: int, side: int = SIDE) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def _waves(n: int, side: int) -> Tensor:
    """Smooth pictures: two waves each, of four to eight pixels' length at the least."""
    rng = np.random.default_rng(0)
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    waves = [[np.sin(2 * np.pi * (a * x + b * y + c)) for a, b, c in rng.uniform(0, 2, (3, 3))] for _ in range(n)]
    return torch.tensor(np.array(waves), dtype=torch.float32) / 2


def test_without_a_chance_pictures_stay_as_they_are() -> None:
    x = _pictures(4)
    assert torch.equal(Augmentation(AdaConfig())(x), x)


@pytest.mark.parametrize("group", ["blit", "geometry", "colour"])
def test_each_group_alone_changes_pictures_each_in_its_own_way(group: Any) -> None:
    torch.manual_seed(0)
    augmentation = Augmentation(AdaConfig(groups=(group,)))
    augmentation.p.fill_(1)
    x = _pictures(1)
    y = augmentation(x.expand(8, -1, -1, -1))
    assert len({picture.numpy().tobytes() for picture in y}) >= 7, "of 200 ways to move it, two may be the same"
    assert bool(torch.isin(y, x).all()) == (group == "blit"), "whole pixels keep their values"


@pytest.mark.parametrize("side", [8, 9])
def test_whole_pixels_move_as_numpy_moves_them(side: int) -> None:
    rng = np.random.default_rng(0)
    x = _pictures(24, side)
    flips, turns, shifts = rng.integers(0, 2, 24), rng.integers(0, 4, 24), rng.integers(-4, 5, (24, 2))
    y = blitted(x, *(torch.tensor(each) for each in (flips, turns, shifts)))
    for picture, seen, flip, turn, (down, right) in zip(x.numpy(), y.numpy(), flips, turns, shifts, strict=True):
        turned = np.rot90(picture[:, :, ::-1] if flip else picture, turn, (1, 2))
        padded = np.pad(turned, ((0, 0), (4, 4), (4, 4)), mode="reflect")
        assert (seen == padded[:, 4 - down : 4 - down + side, 4 - right : 4 - right + side]).all()


def test_turns_and_flips_are_undone_by_their_inverses() -> None:
    x, none = _pictures(8), torch.zeros(8, 2, dtype=torch.long)
    turns, flips = torch.arange(8) % 4, torch.arange(8) // 4
    still = torch.zeros(8, dtype=torch.long)
    seen = blitted(x, flips, turns, none)
    assert torch.equal(blitted(blitted(seen, still, (4 - turns) % 4, none), flips, still, none), x)


def test_a_warp_is_undone_by_the_inverse_matrix() -> None:
    """In the middle, that no edge has come to; a wave of nine pixels loses 3 % each time that it is sampled."""
    torch.manual_seed(0)
    x = _waves(12, 36)
    matrix, drawn = draw_geometry(x, torch.tensor(1.0))
    assert drawn.all()
    matrix[:, :2, 2] *= 0.3
    shown = warped(x, matrix)
    back = warped(shown, torch.linalg.inv(matrix))
    middle = (..., slice(14, 22), slice(14, 22))
    assert (back - x)[middle].abs().max() < 0.08
    assert (shown - x)[middle].abs().max() > 0.5, "it had been moved"


def test_a_warp_shows_what_lies_where_the_matrix_points() -> None:
    """On a slope x(u, v) = u / 2 - v / 4, in units of half the side; torch's cubic is off by a twentieth of a pixel."""
    side = 32
    along = (torch.arange(side) + 0.5) * 2 / side - 1
    v, u = torch.meshgrid(along, along, indexing="ij")
    x = (u / 2 - v / 4).expand(2, 3, side, side)
    turn, move = 0.6, (0.1, -0.2)
    matrix = torch.eye(3).repeat(2, 1, 1)
    matrix[0, :2, :2] = 0.5 * torch.tensor([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix[1, 0, 2], matrix[1, 1, 2] = move
    seen = warped(x, matrix)
    u2, v2 = 0.5 * (np.cos(turn) * u - np.sin(turn) * v), 0.5 * (np.sin(turn) * u + np.cos(turn) * v)
    torch.testing.assert_close(seen[0, 0], u2 / 2 - v2 / 4, atol=2e-3, rtol=0)
    middle = slice(6, -6)
    expected = (u + move[0]) / 2 - (v + move[1]) / 4
    torch.testing.assert_close(seen[1, 0, middle, middle], expected[middle, middle], atol=2e-3, rtol=0)


def test_geometry_is_distributed_as_published() -> None:
    torch.manual_seed(0)
    x = torch.empty(4000, 3, 4, 4)
    for p in (0.3, 1.0):
        matrix, drawn = draw_geometry(x, torch.tensor(p))
        untouched = (1 - p) ** 4  # scale, stretch, move, and two rotations that are one with probability p
        assert 1 - drawn.float().mean().item() == pytest.approx(untouched, abs=0.025)
        area = matrix[:, :2, :2].det()  # 1 / scale^2: rotations and the stretch leave it
        assert area.log2().std().item() == pytest.approx(2 * 0.2 * p**0.5, rel=0.06)
        moved = torch.linalg.inv(matrix)[:, :2, 2]  # the move comes last
        assert moved.std().item() == pytest.approx(0.25 * p**0.5, rel=0.06)


def test_colours_are_those_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn, caught on its way; then each transform in its order, pixel by pixel, by its own formula."""
    normals, angles, flips = [], [], []
    rand, randn, randint = torch.rand, torch.randn, torch.randint

    def caught(draw: Callable[..., Tensor], into: list[Tensor]) -> Callable[..., Tensor]:
        def call(*args: Any, **kwargs: Any) -> Tensor:
            into.append(draw(*args, **kwargs))
            return into[-1]

        return call

    torch.manual_seed(0)
    x = _pictures(6, 4)
    monkeypatch.setattr(torch, "rand", caught(rand, angles))
    monkeypatch.setattr(torch, "randn", caught(randn, normals))
    monkeypatch.setattr(torch, "randint", caught(randint, flips))
    seen = coloured(x, draw_colour(x, torch.tensor(1.0)))
    monkeypatch.undo()
    brightness, contrast, saturation = (n.double().numpy() for n in normals)
    angle = (2 * angles[4].double().numpy() - 1) * np.pi  # after four chances
    v = np.ones(3) / np.sqrt(3)
    for k in range(6):
        rgb = x[k].double().numpy().reshape(3, -1) + 0.2 * brightness[k]
        rgb = rgb * 2 ** (0.5 * contrast[k])
        if flips[0][k]:
            rgb = rgb - 2 * np.outer(v, v @ rgb)
        turned = [
            c * np.cos(angle[k]) + np.cross(v, c) * np.sin(angle[k]) + v * (v @ c) * (1 - np.cos(angle[k]))
            for c in rgb.T
        ]
        rgb = np.array(turned).T
        grey = rgb.mean(0, keepdims=True)
        rgb = grey + (rgb - grey) * 2 ** saturation[k]
        np.testing.assert_allclose(seen[k].reshape(3, -1).numpy(), rgb, atol=1e-5)


def test_colours_are_undone_by_the_inverse_matrix() -> None:
    torch.manual_seed(0)
    x = _pictures(16, 4)
    matrix = draw_colour(x, torch.tensor(1.0))
    assert torch.equal(matrix[:, 3], torch.tensor([0.0, 0, 0, 1]).expand(16, 4))
    torch.testing.assert_close(coloured(coloured(x, matrix), torch.linalg.inv(matrix)), x, atol=2e-4, rtol=0)


def test_half_of_the_flips_and_a_quarter_of_the_turns_are_none() -> None:
    torch.manual_seed(0)
    x, p = torch.empty(4000, 3, 16, 16), 0.5
    flips, turns, shifts = draw_blit(x, torch.tensor(p))
    assert flips.float().mean().item() == pytest.approx(p / 2, abs=0.03)
    assert [(turns == k).float().mean().item() for k in (1, 2, 3)] == pytest.approx([p / 4] * 3, abs=0.03)
    assert shifts.abs().max() == 2, "an eighth of the side"
    assert (shifts != 0).any(1).float().mean().item() == pytest.approx(p * (1 - 0.25**2), abs=0.03)


def test_a_penalty_on_the_gradient_runs_through_it() -> None:
    """The gradient of |grad D(T(x))|^2 by x and by the weights, in float64 at many points, against differences."""
    torch.manual_seed(0)
    x = _pictures(2, 6).double().requires_grad_()
    matrix, _ = draw_geometry(x.float(), torch.tensor(1.0))
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64, requires_grad=True)

    def penalty(x: Tensor, weight: Tensor) -> Tensor:
        seen = coloured(warped(x, matrix.double()), draw_colour(x.float(), torch.tensor(0.0)).double())
        score = torch.nn.functional.conv2d(seen, weight).tanh().sum()
        (gradient,) = torch.autograd.grad(score, x, create_graph=True)
        return gradient.square().sum()

    assert torch.autograd.gradcheck(penalty, (x, weight), eps=1e-6, atol=1e-5)


def test_the_whole_of_it_is_differentiable_twice() -> None:
    torch.manual_seed(0)
    augmentation = Augmentation(AdaConfig())
    augmentation.p.fill_(0.8)
    x = _pictures(8).requires_grad_()
    (gradient,) = torch.autograd.grad(augmentation(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    assert second.isfinite().all()
    assert second.abs().sum() > 0


def _run(augmentation: Augmentation, scores: Callable[[int], Tensor], steps: int, batch: int = 8) -> list[float]:
    """P after each step, of a training with so many images a step."""
    path = []
    for step in range(1, steps + 1):
        augmentation.observe(scores(step))
        if step % augmentation.config.interval == 0:
            augmentation.adapt(batch * augmentation.config.interval)
        path.append(augmentation.p.item())
    return path


def test_p_rises_at_the_stated_pace_while_all_real_pictures_are_known() -> None:
    augmentation = Augmentation(AdaConfig(images=1600))
    path = _run(augmentation, lambda step: torch.full((8,), 3.0), 100)
    assert path[49] == pytest.approx(48 * 8 / 1600), "12 changes after 48 steps"
    assert path[-1] == pytest.approx(100 * 8 / 1600)
    _run(augmentation, lambda step: torch.full((8,), 3.0), 200)
    assert augmentation.p.item() == 1, "and no further"
    assert augmentation.r_t.item() == 1


def test_p_falls_to_zero_where_the_discriminator_is_undecided() -> None:
    augmentation = Augmentation(AdaConfig(images=1600))
    augmentation.p.fill_(0.2)
    path = _run(augmentation, lambda step: torch.tensor([1.0, -1.0] * 4), 60)
    assert path[3] == pytest.approx(0.2 - 32 / 1600)
    assert path[-1] == 0


def test_p_finds_where_a_planted_overfit_is_at_its_target() -> None:
    """A discriminator that knows a picture unless it is transformed: r_t = 1 - p, which is 0.6 at p = 0.4."""
    torch.manual_seed(0)
    augmentation = Augmentation(AdaConfig(images=4000))

    def scores(step: int) -> Tensor:
        is_known = torch.rand(64) > augmentation.p
        return torch.where(is_known | (torch.rand(64) < 0.5), 1.0, -1.0)

    path = _run(augmentation, scores, 400)
    assert path[100] < 0.25, "it rises first"
    assert np.mean(path[-100:]) == pytest.approx(0.4, abs=0.05)


def test_p_stays_where_it_is_at_the_target_and_where_nothing_was_seen() -> None:
    augmentation = Augmentation(AdaConfig(images=100))
    augmentation.p.fill_(0.3)
    augmentation.observe(torch.tensor([1.0] * 8 + [-1.0] * 2))  # 0.6
    augmentation.adapt(32)
    assert augmentation.p.item() == pytest.approx(0.3)
    augmentation.adapt(32)
    assert augmentation.p.item() == pytest.approx(0.3)


def test_workers_come_to_one_p() -> None:
    """Two of them, of which one sees only known pictures: their mean sign is 0, so both go down."""
    workers = [Augmentation(AdaConfig(images=1000)) for _ in range(2)]
    for worker, sign in zip(workers, (1.0, -1.0), strict=True):
        worker.p.fill_(0.5)
        worker.observe(torch.full((8,), sign))
    mean = torch.stack([worker.signs for worker in workers]).mean(0)

    def average(tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            tensor.copy_(mean)

    for worker in workers:
        worker.adapt(64, average=average)
    assert [worker.p.item() for worker in workers] == pytest.approx([0.5 - 0.064] * 2)


def test_a_checkpoint_has_its_state() -> None:
    augmentation = Augmentation(AdaConfig())
    augmentation.observe(torch.ones(3))
    augmentation.p.fill_(0.25)
    other = Augmentation(AdaConfig())
    other.load_state_dict(augmentation.state_dict())
    assert (other.p.item(), other.signs.tolist()) == (0.25, [3, 3])


@pytest.mark.parametrize("fields", [{"target": 1.0}, {"images": 0}, {"groups": ()}, {"groups": ("cutout",)}])
def test_what_no_configuration_may_say(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AdaConfig(**fields)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: what runs on one was not tested")
def test_a_gpu_is_waited_for_nowhere() -> None:
    module = augmentation.Augmentation(AdaConfig()).to("cuda")
    x = _pictures(8).to("cuda").requires_grad_()
    module.p.fill_(1)
    try:
        torch.cuda.set_sync_debug_mode("error")
        with torch.autocast("cuda", torch.bfloat16):
            y = module(x)
            (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            gradient.square().sum().backward()
            module.observe(y.mean((1, 2, 3)))
            module.adapt(8)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert y.dtype == torch.float32
    assert x.grad is not None
    assert x.grad.isfinite().all()
