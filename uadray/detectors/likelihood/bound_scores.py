"""The stages of a detector that is a variational autoencoder: its posterior, its picture, and scores of its bound.

As a score of a tile: parts of the bound (Kingma and Welling 2014, eq. 7), the bound, or the importance-weighted one
(Burda et al. 2016, https://arxiv.org/abs/1509.00519, eq. 8); Zimmerer et al. 2019 (https://arxiv.org/abs/1812.05941)
take the bound for tiles and gradients for pixels, see `input_gradients`.
"""

import math
from collections.abc import Mapping
from typing import Literal, Protocol, cast, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from uadray.detectors.latents import Latent
from uadray.detectors.likelihood.gaussians import importance_bound, kl_to_standard_normal
from uadray.detectors.likelihood.input_gradients import MapKind, fixed_pictures, gradient_map, value_of
from uadray.detectors.likelihood.vae_part import draws_of, fixed_noise, observation_of, posterior

ScoreKind = Literal["reconstruction", "kl", "elbo", "importance", "kl_gradient", "combined"]
"""`kl_gradient` and `combined` are means over the map of that name."""

OF_MEAN = ("reconstruction_error", "combined")
"""Maps and scores that need what the decoder says of the mean of z."""

Gaussian = tuple[Tensor, Tensor]
"""Mean and logarithm of the variance of q(z | x), [n, d] each."""


class PosteriorMap:
    """One pass through the encoder: q(z | x)."""

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder = encoder

    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Latent:
        """Mean and logarithm of the variance."""
        return posterior(self.encoder, x)


class MeanPicture:
    """What the decoder says of the mean of z, as a picture."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        self.decoder, self.observation = networks["decoder"], observation_of(networks)

    def __call__(self, z: Latent) -> Float[Tensor, "n 3 h w"]:
        """X_hat, nominally in [-1, 1]."""
        mean, _ = cast(Gaussian, z)
        return self.observation.picture(self.decoder(mean))


@runtime_checkable
class Scoring(Protocol):
    """Which score, which map, and how both are made: the fields that configurations of such detectors have in common.

    Attributes:
        score: of a tile.
        map: of its pixels.
        draws: of z, for the expectation of log p(x | z) and for importance weights; 0 takes the mean of z.
        gradient_draws: noisy copies of a tile that gradients are averaged over; 0 takes the tile as it is.
        gradient_noise: deviation of their noise, of images in [-1, 1].
        blur_px: deviation of the Gaussian over gradients.
        latent_dim: length of z.
        input_px: side of images.
    """

    score: ScoreKind
    map: MapKind
    draws: int
    gradient_draws: int
    gradient_noise: float
    blur_px: float
    latent_dim: int
    input_px: int


class BoundScore:
    """Scores in nats a pixel, higher = less probable; of gradients a mean over pixels, in nats a unit of x."""

    def __init__(self, networks: Mapping[str, nn.Module], how: Scoring) -> None:
        self.networks = {name: networks[name] for name in ("encoder", "decoder", "observation")}
        self.how = how
        by_mean = () if how.draws else ("reconstruction", "elbo")
        self.looks_at_mean = how.map in OF_MEAN or how.score in (*OF_MEAN, *by_mean)
        device = next(self.networks["encoder"].parameters()).device
        self.noise = fixed_noise(how.draws, how.latent_dim).to(device)
        self.pictures = fixed_pictures(how.gradient_draws, how.input_px, deviation=how.gradient_noise).to(device)

    def __call__(
        self, x: Float[Tensor, "n 3 h w"], x_hat: Tensor | None, z: Latent
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h w"]]:
        """See `Scoring`."""
        mean, log_variance = cast(Gaussian, z)
        said = self.networks["decoder"](mean) if self.looks_at_mean else None
        residuals = self._map(self.how.map, x, said)
        match self.how.score:
            case "kl_gradient" | "combined" as kind:
                own = residuals if kind == self.how.map else self._map(kind, x, said)
                return own.mean((1, 2)), residuals
            case kind:
                return self._nats(kind, x, said, mean, log_variance) / x[0, 0].numel(), residuals

    def _nats(self, kind: str, x: Tensor, said: Tensor | None, mean: Tensor, log_variance: Tensor) -> Tensor:
        """[n] In nats a tile; `said` is what the decoder says of the mean of z."""
        kl = kl_to_standard_normal(mean, log_variance)
        if kind == "kl":
            return kl
        if said is not None and not self.how.draws:
            reconstruction = -observation_of(self.networks)(x, said).flatten(1).sum(1)
        else:
            drawn = draws_of(self.networks, x, mean, log_variance, self.noise)
            if kind == "importance":
                return -importance_bound(drawn.log_weight)
            reconstruction = -drawn.log_likelihood.mean(0)
        return reconstruction + kl if kind == "elbo" else reconstruction

    def _map(self, kind: MapKind, x: Tensor, said: Tensor | None) -> Tensor:
        """[n, h, w]: an error, a gradient, or their product."""
        factors = list[Tensor]()
        if kind in OF_MEAN and said is not None:
            factors.append(observation_of(self.networks).residual(x, said))
        if kind != "reconstruction_error":
            value = value_of(kind, self.networks, latent_dim=self.how.latent_dim)
            factors.append(gradient_map(value, x, noise=self.pictures, blur_px=self.how.blur_px))
        return math.prod(factors[1:], start=factors[0])
