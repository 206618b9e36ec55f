"""How an encoder learns to find latents of a frozen generator, by izi_f and LPIPS.

https://doi.org/10.1016/j.media.2019.01.010 (Schlegl et al. 2019, eq. 4), https://arxiv.org/abs/2102.02766 (Tov et al.
2021, section 4), see `uadray.detectors.hybrid`.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Adam

from uadray.detectors.inversion.axes import Axes
from uadray.detectors.inversion.critic_part import CriticPart
from uadray.detectors.inversion.latent_space import LatentSpace
from uadray.detectors.inversion.picture_distance import PictureDistance
from uadray.detectors.losses import izi_f
from uadray.detectors.trainee import Average
from uadray.networks.style_encoder import StyleEncoder

SLOW_SHARE = 0.25
"""Last share of the encoder's steps, whose rate is a tenth: in two stages, so that a captured step is captured twice
and no more."""

BETAS = (0.9, 0.99)
"""Of Adam; the second forgets the first steps within a few hundred."""


def offset_spread(offsets: Float[Tensor, "n layers dim"]) -> Float[Tensor, " n"]:
    """How far the latents of an image's layers are from one w for all: their mean squared distance from their mean."""
    return (offsets - offsets.mean(1, keepdim=True)).square().mean((1, 2))


class StyleEncoding:
    """Steps of an encoder. What it is trained against stands still, in the mode in which it scores.

    Args:
        encoder: that learns.
        axes: of the searches that start at its latents; they follow the gradients of its losses by latents.
        space: of the generator.
        critic: of the generator.
        distance: LPIPS.
        kappa: weight of the discriminator's features.
        lpips_weight: of LPIPS; 0 leaves it out.
        offset_weight: of `offset_spread`; 0 leaves it out.
        learning_rate: of Adam.
        average: over the workers.
    """

    def __init__(
        self, encoder: StyleEncoder, axes: Axes, *, space: LatentSpace, critic: CriticPart, distance: PictureDistance,
        kappa: float, lpips_weight: float, offset_weight: float, learning_rate: float, average: Average,
    ) -> None:  # fmt: skip
        self.encoder, self.axes, self.space = encoder, axes, space
        self.critic, self.distance = critic, distance
        self.kappa, self.lpips_weight, self.offset_weight = kappa, lpips_weight, offset_weight
        self.learning_rate, self.average = learning_rate, average
        self.optimizer = Adam(encoder.parameters(), lr=learning_rate, betas=BETAS)

    def begin(self) -> None:
        """Point the encoder to where the latents of the trained generator lie."""
        self.encoder.centre(self.space.mean(), self.space.deviation() / self.space.shape[-1] ** 0.5)

    def pace(self, progress: float) -> None:
        """Set the learning rate, at a progress from 0 to 1 through the encoder's own steps."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * (0.1 if progress >= 1 - SLOW_SHARE else 1.0)

    def step(self, x: Float[Tensor, "n 3 h w"]) -> dict[str, Tensor]:
        """Lower the losses on x in [-1, 1]; their means by name."""
        offsets = self.encoder.offsets(x)
        offsets.retain_grad()
        terms = self.losses(x, offsets)
        loss = torch.stack([weight * term.mean() for weight, term in terms.values()]).sum()
        self.optimizer.zero_grad()
        loss.backward()
        if offsets.grad is not None:
            self.axes.see(offsets.grad)
        self.average([*(p.grad for p in self.encoder.parameters() if p.grad is not None), self.axes.moment])
        self.optimizer.step()
        return {name: term.detach().mean() for name, (_, term) in terms.items()}

    def losses(
        self, x: Float[Tensor, "n 3 h w"], offsets: Float[Tensor, "n ..."]
    ) -> dict[str, tuple[float, Float[Tensor, " n"]]]:
        """By name: the weight of each loss of the encoder's offsets, and its value for each image."""
        x_hat = self.space.pictures(self.encoder.latents(offsets))
        with torch.no_grad():
            features = self.critic.features(x)
        izi = izi_f(x, x_hat, features, self.critic.features(x_hat), kappa=self.kappa)
        terms: dict[str, tuple[float, Tensor]] = {"izi_f": (1.0, izi)}
        if self.lpips_weight:
            with torch.no_grad():
                seen = self.distance.features(x)
            terms["lpips"] = self.lpips_weight, self.distance(seen, self.distance.features(x_hat))
        if self.offset_weight and offsets.dim() == 3:
            terms["offset_spread"] = self.offset_weight, offset_spread(offsets)
        return terms
