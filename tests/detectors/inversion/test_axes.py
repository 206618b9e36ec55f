"""Axes of a search: they are turned, not stretched, and a search along them forgets which way a loss lies."""

import pytest
import torch
from torch import Tensor

from uadray.detectors.inversion.axes import AlongAxes, Axes, LatentsFound
from uadray.detectors.inversion.descent import Descent, DescentMap

pytestmark = pytest.mark.usefixtures("torch_alone")


def turned(shape: tuple[int, ...] = (2, 5)) -> Axes:
    """Axes of gradients of which one direction a layer has nearly all."""
    rng = torch.Generator().manual_seed(0)
    axes = Axes(shape)
    mixing = torch.randn(shape[-1], shape[-1], generator=rng) * torch.tensor([9.0, 1, 1, 1, 0.1])
    for _ in range(50):
        axes.see(torch.randn(8, *shape, generator=rng) @ mixing.mT)
    axes.fit()
    return axes


@pytest.mark.parametrize("shape", [(2, 5), (5,)])
def test_there_and_back(shape: tuple[int, ...]) -> None:
    axes = turned(shape)
    latents = torch.randn(3, *shape)
    along = axes.along(latents)
    torch.testing.assert_close(axes.latents(along), latents)
    torch.testing.assert_close(along.norm(dim=-1), latents.norm(dim=-1))
    assert not torch.allclose(along, latents, atol=0.1)


def test_axes_are_those_of_the_gradients() -> None:
    """The last axis is the one in which gradients are largest; along axes they do not depend on each other."""
    axes = turned()
    moment = axes.basis @ axes.moment @ axes.basis.mT
    diagonal = moment.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(moment, torch.diag_embed(diagonal), rtol=0, atol=1e-3 * float(moment.max()))
    assert (diagonal.diff(dim=1) >= 0).all()


def test_untrained_axes_are_those_of_the_latents() -> None:
    latents = torch.randn(3, 2, 5)
    assert torch.equal(Axes((2, 5)).along(latents), latents)


class _Valley:
    """A narrow valley, oblique to the axes of the latents."""

    def __init__(self, axes: Axes) -> None:
        self.axes, self.steep = axes, torch.tensor([0.01, 0.03, 0.1, 1.0, 100.0])

    def targets(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x[:, 0],)

    def __call__(self, variables: tuple[Tensor, ...], targets: tuple[Tensor, ...], step: int) -> Tensor:
        return (self.axes.along(variables[0] - targets[0]).square() * self.steep).sum((1, 2))


class _Space:
    """Latents that nothing is drawn from: the search is told where to start."""

    def drawn(self, n: int, *, seed: int) -> Tensor:
        return torch.zeros(n, 2, 5)

    def pictures(self, latents: Tensor) -> Tensor:
        return torch.zeros(len(latents), 3, 1, 1)


def test_a_search_along_the_axes_of_a_valley_is_faster() -> None:
    axes = turned()
    valley, x = _Valley(axes), torch.randn(4, 3, 2, 5)

    def left(which: Axes) -> float:
        search = DescentMap(
            _Space(), AlongAxes(valley, which), Descent(steps=40, learning_rate=0.1), start=lambda x, _: (x[:, 0] * 0,)
        )
        found = LatentsFound(search, which)(x)
        assert isinstance(found, Tensor)
        return float(valley((found,), valley.targets(x), 0).mean())

    assert left(axes) < 0.5 * left(Axes((2, 5)))
