"""The search for latents: that it is Adam's, that each tile has its own, and which of its latents is kept."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor

from uadray.detectors.inversion.descent import GROUP, ClosestDrawn, Descent, DescentMap
from uadray.detectors.inversion.interruption import looked_at
from uadray.detectors.inversion.latent_space import LatentSpace
from uadray.detectors.inversion.search import Variables
from uadray.generators import dcgan
from uadray.generators.catalog import file_of

pytestmark = pytest.mark.usefixtures("torch_alone")


class Lines:
    """A space of one number a latent, whose picture has it everywhere."""

    def __init__(self, *latents: float) -> None:
        self.latents = torch.tensor(latents, dtype=torch.float64)[:, None]

    def drawn(self, n: int, *, seed: int) -> Tensor:
        return self.latents[:n]

    def pictures(self, latents: Tensor) -> Tensor:
        return latents[:, :, None, None].expand(-1, 3, 2, 2)


class Value:
    """A loss of the latents and of one pixel of each tile, and what it was called with."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function, self.steps, self.values = function, list[int](), list[Tensor]()

    def targets(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x[:, 0, 0, 0],)

    def __call__(self, variables: Variables, targets: tuple[Tensor, ...], step: int) -> Tensor:
        loss = self.function(variables[0][:, 0], targets[0])
        self.steps.append(step)
        self.values.append(loss.detach()[:1])
        return loss


def tiles(*values: float) -> Tensor:
    """Tiles of one colour, in inference mode, as a detector gives them."""
    with torch.inference_mode():
        return torch.tensor(values, dtype=torch.float64)[:, None, None, None].expand(-1, 3, 2, 2).clone()


def square(z: Tensor, x: Tensor) -> Tensor:
    return (z - x).square()


def test_a_step_is_one_of_adam() -> None:
    """Against torch's, with a rate of its own for each step."""
    expected = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([expected], lr=0.1)
    rates = [1.0, 0.5, 2.0, 0.1, 1.0, 0.7]
    for rate in rates:
        adam.param_groups[0]["lr"] = 0.1 * rate
        adam.zero_grad()
        square(expected[:, 0], torch.tensor([1.0, -3.0])).sum().backward()
        adam.step()
    search = DescentMap(
        Lines(0.0), Value(square), Descent(steps=len(rates), learning_rate=0.1), rate=lambda step: rates[step],
        keep="last",
    )  # fmt: skip
    with torch.inference_mode():
        torch.testing.assert_close(search(tiles(1.0, -3.0)), expected.detach(), rtol=1e-12, atol=0)


def test_the_best_latent_is_kept_or_the_last() -> None:
    """At this rate the loss rises between its dips."""
    found = {}
    keeps: tuple[Literal["best", "last"], ...] = ("best", "last")
    for keep in keeps:
        loss = Value(square)
        search = DescentMap(Lines(0.0), loss, Descent(steps=9, learning_rate=2.0), keep=keep)
        found[keep] = search.search(tiles(1.0))
        values = torch.cat(loss.values)
        expected = values.min() if keep == "best" else values[-1]
        assert found[keep].loss[0] == expected == (found[keep].variables[0][0, 0] - 1).square()
        assert loss.steps == list(range(10))
    assert found["best"].loss < found["last"].loss


def test_a_tile_leaves_once_its_loss_stands_still() -> None:
    """The first tile is where it shall be; the second has far to go; the third's loss falls by too small a share."""
    search = DescentMap(
        Lines(0.0), Value(lambda z, x: square(z, x) + 100 * (x == -1)),
        Descent(steps=60, learning_rate=0.1, patience=7, improvement=0.05),
    )  # fmt: skip
    found = search.search(tiles(0.0, 9.0, -1.0))
    assert found.steps.tolist() == [7, 60, 7]
    assert found.variables[0][0, 0] == 0
    assert 3 < found.variables[0][1, 0] < 9
    alone = search.search(tiles(9.0))
    assert torch.equal(alone.variables[0][0], found.variables[0][1])


def test_a_search_ends_when_no_tile_is_left() -> None:
    loss = Value(square)
    found = DescentMap(Lines(0.0), loss, Descent(steps=1000, patience=15)).search(tiles(0.0, 0.0))
    assert found.steps.tolist() == [15, 15]
    assert max(loss.steps) == 20  # the next look


def test_of_restarts_each_tile_keeps_its_best() -> None:
    """Valleys at -1 and 1, of which a tile's own is deeper: one start is left of the ridge and one is right of it."""

    def valleys(z: Tensor, x: Tensor) -> Tensor:
        return (z.square() - 1).square() - 0.1 * z * x

    for restarts, expected in ((1, [-1.0, -1.0]), (2, [1.0, -1.0])):
        search = DescentMap(Lines(-0.5, 0.5), Value(valleys), Descent(steps=100, restarts=restarts, learning_rate=0.05))
        found = search.search(tiles(1.0, -1.0))
        assert found.variables[0][:, 0].round().tolist() == expected
        assert found.steps.tolist() == [100 * restarts] * 2


def test_a_search_starts_at_the_closest_candidate() -> None:
    space = Lines(0.0, 0.4, 0.9, -0.7)
    x = tiles(0.5, -0.9, 0.05)
    found = DescentMap(space, Value(square), Descent(steps=0, candidates=4)).search(x)
    torch.testing.assert_close(found.variables[0][:, 0], torch.tensor([0.4, -0.7, 0.0], dtype=torch.float64))
    second = ClosestDrawn(space, candidates=4, restarts=2)(x.clone(), 1)[0]
    torch.testing.assert_close(second[:, 0], torch.tensor([0.9, 0.0, 0.4], dtype=torch.float64))
    as_they_come = ClosestDrawn(space, candidates=1, restarts=2)(x.clone(), 1)[0]
    assert as_they_come[:, 0].tolist() == [0.4] * 3


def test_more_than_a_latent_can_be_searched_for() -> None:
    """A level beside the latent; after each step it is put back between -0.3 and 0.3."""

    class Sum:
        def targets(self, x: Tensor) -> tuple[Tensor, ...]:
            return (x[:, 0, 0, 0],)

        def __call__(self, variables: Variables, targets: tuple[Tensor, ...], step: int) -> Tensor:
            z, level = variables
            return (z[:, 0] + level[:, 0, 0] - targets[0]).square() + 0.01 * z[:, 0].square()

    def settle(variables: Variables) -> None:
        variables[1].clamp_(-0.3, 0.3)

    search = DescentMap(
        Lines(0.0), Sum(), Descent(steps=300, learning_rate=0.02),
        start=lambda x, restart: (x[:, :1, 0, 0] * 0, x[:, :1, :1, 0] * 0),
        settle=settle,
    )  # fmt: skip
    z, level = search(tiles(2.0, 0.1))
    assert level[0, 0, 0] == pytest.approx(0.3)
    assert z[0, 0] == pytest.approx(1.7 / 1.01, abs=0.02)
    assert z[1, 0] + level[1, 0, 0] == pytest.approx(0.1, abs=0.01)


def test_it_can_be_ended_between_two_steps() -> None:
    shares = list[float]()

    def look(share: float) -> None:
        shares.append(share)
        if share > 0.6:
            raise TimeoutError

    search = DescentMap(Lines(0.0, 1.0), Value(square), Descent(steps=5, restarts=2))
    with looked_at(look), pytest.raises(TimeoutError):
        search(tiles(1.0))
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])


@pytest.fixture(scope="module")
def space() -> LatentSpace:
    torch.manual_seed(0)
    config = dcgan.Config(kind="dcgan", input_px=16, width=4, latent_dim=8)
    networks = file_of(config).networks(config, pretrained=False)
    for network in networks.values():
        for weight in network.parameters():
            weight.data.mul_(4 if weight.dim() > 1 else 1)  # pictures that differ
        network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return LatentSpace(config, networks, "z")


class Pixels:
    """Mean absolute difference from the picture."""

    def __init__(self, space: LatentSpace) -> None:
        self.space = space

    def targets(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,)

    def __call__(self, variables: Variables, targets: tuple[Tensor, ...], step: int) -> Tensor:
        return (self.space.pictures(variables[0]) - targets[0]).abs().flatten(1).mean(1)


@torch.inference_mode()
def test_a_batch_ends_as_its_tiles_would_alone(space: LatentSpace) -> None:
    """To the last bit, after 500 steps, in two groups of which the second is not full, with tiles that leave early."""
    x = torch.rand(GROUP + 3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    x[::2] = space.pictures(space.drawn(GROUP + 3, seed=5))[::2]
    search = DescentMap(space, Pixels(space), Descent(steps=500, candidates=50, patience=40, improvement=0.02))
    together = search.search(x)
    assert len(set(together.steps.tolist())) > 5
    for row in (0, 5, GROUP + 2):
        alone = search.search(x[row : row + 1])
        assert torch.equal(alone.variables[0][0], together.variables[0][row])
        assert torch.equal(alone.loss[0], together.loss[row])
        assert alone.steps[0] == together.steps[row]


@torch.inference_mode()
def test_a_picture_of_the_generator_is_found(space: LatentSpace) -> None:
    x = space.pictures(space.drawn(4, seed=7))
    start = DescentMap(space, Pixels(space), Descent(steps=0)).search(x)
    found = DescentMap(space, Pixels(space), Descent(steps=150, candidates=200)).search(x)
    assert (found.loss < 0.1 * start.loss).all()
