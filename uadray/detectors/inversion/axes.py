"""Along which axes a search moves: those in which a generator's latents change a picture most, and least.

Adam (https://arxiv.org/abs/1412.6980) scales the components of a gradient one by one, and so depends on the axes that
they are components of. Of a style-based generator a few directions of w change nearly all of the picture (10 of 512 had
0.9 of the squared gradient, StyleGAN2 at 32 px). So a search moves along the eigenvectors of the gradients' second
moment, as SOAP (Vyas et al. 2024, https://arxiv.org/abs/2409.11321) does in training networks. Different: the moment is
that of many tiles, taken while an encoder learns, and stands still in the search; there is one of each layer.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from uadray.detectors.inversion.descent import DescentMap
from uadray.detectors.inversion.search import Objective, Targets, Variables
from uadray.detectors.latents import Latent

FOLLOWS = 0.02
"""How fast the second moment follows, a step of the encoder: it knows the last hundred or so."""


class Axes(nn.Module):
    """The axes of each layer's latent.

    Attributes:
        moment: second moment of gradients, [layers, dim, dim].
        basis: its eigenvectors, one a row; the axes as they are until `fit`.

    Args:
        shape: of one latent: (layers, dim), or (dim,).
    """

    moment: Tensor
    basis: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        *layers, dim = shape
        n = layers[0] if layers else 1
        self.register_buffer("moment", torch.zeros(n, dim, dim))
        self.register_buffer("basis", torch.eye(dim).repeat(n, 1, 1))

    @torch.no_grad()
    def see(self, gradients: Float[Tensor, "n ..."]) -> None:
        """Follow the gradients of a loss by the latents of n tiles."""
        with torch.autocast(gradients.device.type, enabled=False):
            by_layer = self._by_layer(gradients.float())  # [layers, n, dim]
            self.moment.lerp_(by_layer.mT @ by_layer, FOLLOWS)

    @torch.no_grad()
    def fit(self) -> None:
        """Take the axes of the moment as it stands."""
        _, vectors = torch.linalg.eigh(self.moment.double())
        self.basis.copy_(vectors.mT)

    def along(self, latents: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Latents as components along the axes."""
        return self._from_layers(self._by_layer(latents) @ self.basis.mT, latents)

    def latents(self, components: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Components along the axes as latents."""
        return self._from_layers(self._by_layer(components) @ self.basis, components)

    def _by_layer(self, latents: Tensor) -> Tensor:
        return latents.reshape(len(latents), *self.basis.shape[:2]).transpose(0, 1)

    def _from_layers(self, by_layer: Tensor, like: Tensor) -> Tensor:
        return by_layer.transpose(0, 1).reshape(like.shape)


class AlongAxes:
    """What a search lowers, as a function of components along axes in place of latents."""

    def __init__(self, objective: Objective, axes: Axes) -> None:
        self.objective, self.axes = objective, axes

    def targets(self, x: Tensor) -> Targets:
        """See `Objective`."""
        return self.objective.targets(x)

    def __call__(self, variables: Variables, targets: Targets, step: int) -> Tensor:
        """See `Objective`."""
        components, *others = variables
        return self.objective((self.axes.latents(components), *others), targets, step)


class LatentsFound:
    """The stage `map`: x -> what a search along axes has found, as latents; others that it changes as they are."""

    def __init__(self, search: DescentMap, axes: Axes) -> None:
        self.search, self.axes = search, axes

    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Latent:
        """Latents [n, ...], or (latents, ...)."""
        found = self.search(x)
        components, *others = found if isinstance(found, tuple) else (found,)
        latents = self.axes.latents(components)
        return (latents, *others) if others else latents
