"""What AnoGAN's search lowers: (1 - lambda) R + lambda D. https://arxiv.org/abs/1703.05921 (Schlegl et al. 2017).

Means over pixels and over the values of the discriminator's maps, where the paper has sums (eq. 3 and 5).
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from uadray.detectors.inversion.compared import Judge
from uadray.detectors.inversion.descent import LatentDraws
from uadray.detectors.inversion.search import Targets, Variables
from uadray.detectors.losses import l1
from uadray.detectors.scores import reference_discrimination

Discrimination = Literal["features", "reference"]


class MappingLoss:
    """The loss of AnoGAN's search, see `uadray.detectors.inversion.search.Objective`.

    Args:
        space: draws pictures of latents.
        critic: of the generator.
        share: lambda, of the discrimination loss.
        discrimination: mean |f(x) - f(G(z))| of the discriminator's maps f (eq. 5); or -log of its word of G(z), which
            does not look at x (Yeh et al. 2016).
    """

    def __init__(
        self, space: LatentDraws, critic: Judge, *, share: float = 0.1, discrimination: Discrimination = "features"
    ) -> None:
        self.space, self.critic, self.share, self.discrimination = space, critic, share, discrimination

    def targets(self, x: Float[Tensor, "n 3 h w"]) -> Targets:
        """The images, and their maps in the discriminator where these are compared."""
        return (x, self.critic.features(x)) if self.discrimination == "features" else (x,)

    def __call__(self, variables: Variables, targets: Targets, step: int) -> Float[Tensor, " n"]:
        """Losses of latents, the same at every step."""
        return self.sum_of(*self.parts(targets, self.space.pictures(variables[0])))

    def parts(
        self, targets: Targets, x_hat: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """R and D of pictures."""
        residual = l1(targets[0], x_hat)
        if self.discrimination == "reference":
            return residual, reference_discrimination(self.critic.word(x_hat), is_logistic=self.critic.is_logistic)
        return residual, (targets[1] - self.critic.features(x_hat)).abs().flatten(1).mean(1)

    def sum_of(self, residual: Float[Tensor, " n"], discrimination: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """(1 - lambda) R + lambda D (eq. 6)."""
        return (1 - self.share) * residual + self.share * discrimination
