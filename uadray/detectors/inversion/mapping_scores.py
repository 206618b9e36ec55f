"""The scores of AnoGAN. https://arxiv.org/abs/1703.05921 (Schlegl et al. 2017, sections 2.3 and 3)."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from uadray.detectors.inversion.compared import Judge
from uadray.detectors.inversion.mapping_loss import MappingLoss
from uadray.detectors.latents import Latent
from uadray.detectors.scores import picture_of, unlikeliness

ScoreName = Literal["anomaly", "residual", "discrimination", "discriminator", "reference"]


class AnoganScore:
    """A(x), or one of its parts; or A(x) with the reference discrimination loss."""

    def __init__(self, loss: MappingLoss, score: ScoreName) -> None:
        self.loss, self.score = loss, score

    def __call__(
        self, x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"] | None, z: Latent
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h w"]]:
        """The map is |x - x_hat| (section 2.3), its mean over colours."""
        x_hat = picture_of(x_hat)
        residual, discrimination = self.loss.parts(self.loss.targets(x), x_hat)
        match self.score:
            case "residual":
                score = residual
            case "discrimination":
                score = discrimination
            case _:
                score = self.loss.sum_of(residual, discrimination)
        return score, (x - x_hat).abs().mean(1)


class DiscriminatorScore:
    """P_D: how little the tile itself looks like training data to the discriminator."""

    def __init__(self, critic: Judge) -> None:
        self.critic = critic

    def __call__(
        self, x: Float[Tensor, "n 3 h w"], x_hat: Tensor | None, z: Latent
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h w"]]:
        """The map has the score at every place: it speaks of the tile as a whole."""
        score = unlikeliness(self.critic.word(x), is_logistic=self.critic.is_logistic)
        return score, score.view(-1, 1, 1).expand(-1, *x.shape[2:])
