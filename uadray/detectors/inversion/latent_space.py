"""The latents of a trained generator, and its pictures of them, as searched by who maps tiles to them.

z is what a generator draws from; w of a style-based one is what its mapping network makes of z, and w+ has a w of its
own for each layer (Abdal et al. 2019, https://arxiv.org/abs/1904.03189).
"""

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from uadray.detectors.latents import Latent
from uadray.errors import InputError
from uadray.generators.catalog import GeneratorConfig, file_of
from uadray.generators.pictures import BLOCK
from uadray.networks import stylegan, stylegan2

Space = Literal["z", "w", "w+"]

STYLED = ("stylegan", "stylegan2")
"""Kinds of generators that have a latent space W."""

DEVIATION_DRAWS = 10_000
"""Of w, of which its deviation is taken (Karras et al. 2020, appendix D)."""


def spaces_of(config: GeneratorConfig) -> tuple[Space, ...]:
    """The spaces that a generator has.

    >>> from uadray.generators import dcgan
    >>> spaces_of(dcgan.Config(kind="dcgan"))
    ('z',)
    """
    return ("z", "w", "w+") if config.kind in STYLED else ("z",)


def check_space(generator: GeneratorConfig | str, space: Space | None) -> None:
    """Refuse a space that a generator lacks; None is any, and of a bundle that has not been read nothing is known.

    Raises:
        ValueError: naming those that it has.
    """
    if not isinstance(generator, str) and space not in (None, *(known := spaces_of(generator))):
        raise ValueError(f"a {generator.kind} has no space {space}; it has {', '.join(known)}")


class LatentSpace:
    """One of a generator's spaces. A picture follows from its latent alone, whatever else is in the batch.

    Attributes:
        shape: of one latent: z [latent_dim], w [1, w_dim], w+ [layers, w_dim].

    Args:
        config: of the generator.
        networks: of it, as they score: in evaluation mode, frozen, on their device.
        space: which.

    Raises:
        InputError: the generator has no such space.
    """

    shape: tuple[int, ...]

    def __init__(self, config: GeneratorConfig, networks: Mapping[str, nn.Module], space: Space) -> None:
        if space not in spaces_of(config):
            raise InputError(
                f"a {config.kind} has no latent space {space}; it has {', '.join(spaces_of(config))} "
                f"({' and '.join(STYLED)} have w and w+)"
            )
        self.config, self.space = config, space
        name = "average" if "average" in networks else "generator"
        self._file, self._networks = file_of(config), {name: networks[name]}
        self._network = self._networks[name]
        self.device = next(self._network.parameters()).device
        if space == "z":
            self.shape = (config.latent_dim,)
        else:
            self.shape = (self._n_styles() if space == "w+" else 1, len(self._mean_w()))

    def drawn(self, n: int, *, seed: int) -> Tensor:
        """Latents [n, *shape] as a training draws them, on the device; a seed's first k are those of any n.

        In w+ all layers have the same w.
        """
        rng = torch.Generator().manual_seed(seed)
        blocks = [self._file.latents(self.config, BLOCK, rng=rng) for _ in range(0, n, BLOCK)]
        z = torch.cat(blocks)[:n].to(self.device)
        with torch.no_grad():
            return z if self.space == "z" else self._styles(z)[:, : self.shape[0]].contiguous()

    def mean(self) -> Tensor:
        """[*shape]: the mean w, for all layers; of z the zero vector, the mean of its distribution."""
        if self.space == "z":
            return torch.zeros(self.shape, device=self.device)
        return self._mean_w().expand(self.shape).contiguous()

    def deviation(self) -> float:
        """The root of the mean squared distance from the mean, over draws (Karras et al. 2020, appendix D).

        Of w it is that of one layer's.
        """
        with torch.no_grad():
            z = self._file.latents(self.config, DEVIATION_DRAWS, rng=torch.Generator().manual_seed(0)).to(self.device)
            if self.space == "z":
                return float(z.square().sum(1).mean().sqrt())
            w = torch.cat([self._styles(part)[:, 0] for part in z.split(1000)])
            return float((w - w.mean(0)).square().sum(1).mean().sqrt())

    def pictures(self, latents: Tensor, noise: Sequence[Tensor] | None = None) -> Tensor:
        """Pictures [n, 3, h, w] about in [-1, 1], not cut to it; differentiable in latents and noise.

        Args:
            latents: [n, *shape].
            noise: maps in place of `fixed_noise`, each for all pictures or [n, 1, h, w].
        """
        match self.space:
            case "z":
                styles = self._styles(latents)
            case "w":
                styles = latents.expand(-1, self._n_styles(), -1)
            case "w+":
                styles = latents
        return self._file.unbounded(self.config, self._networks, styles, noise=noise)

    def fixed_noise(self) -> list[Tensor]:
        """The maps [1, h, w] or [1, 1, h, w] that pictures have where no others are given; none of some generators."""
        return self._file.noise_maps(self.config, self._networks)

    def _styles(self, z: Tensor) -> Tensor:
        return self._file.styles(self.config, self._networks, z)

    def _mean_w(self) -> Tensor:
        return self._network.get_buffer("mean_w")

    def _n_styles(self) -> int:
        match self._network:
            case stylegan2.Generator() as network:
                return network.n_styles
            case network:
                return cast(stylegan.Generator, network).synthesis.layers


class Pictures:
    """The stage `reconstruct` of a detector: what a generator draws of the latents that were found, cut to [-1, 1]."""

    def __init__(self, space: LatentSpace) -> None:
        self.space = space

    def __call__(self, z: Latent) -> Tensor:
        """X_hat [n, 3, h, w] of latents [n, *shape], or of these and maps of noise."""
        latents, *maps = z if isinstance(z, tuple) else (z,)
        return self.space.pictures(latents, maps or None).clamp(-1, 1)
