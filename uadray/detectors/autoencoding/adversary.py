"""An adversarial term for an autoencoder: a Wasserstein critic of its reconstructions.

Gulrajani et al. 2017, https://arxiv.org/abs/1704.00028, with a penalty on the critic's squared values, which keeps them
from drifting (Karras et al. 2018, https://arxiv.org/abs/1710.10196, appendix A.1).
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from uadray import config as configuration
from uadray.detectors.gradient_steps import new_adam, update
from uadray.detectors.trainee import Average
from uadray.generators import gan_losses


class Adversarial(configuration.Config):
    """An adversarial term.

    Attributes:
        weight: of the term beside the perceptual loss.
        critic_steps: of the critic before each step of the autoencoder.
        gradient_penalty: weight of the penalty on the critic's gradient.
        norm_penalty: weight of the penalty on the critic's squared values.
    """

    weight: float = Field(default=0.1, gt=0, le=1e6)
    critic_steps: int = Field(default=2, ge=1, le=100)
    gradient_penalty: float = Field(default=10.0, ge=0, le=1e6)
    norm_penalty: float = Field(default=1e-3, ge=0, le=1e6)


class Adversary:
    """The critic, and how it learns. Always in float32: its penalty is made of gradients of gradients."""

    def __init__(self, critic: nn.Module, settings: Adversarial, rate: float, average: Average) -> None:
        self.critic, self.settings, self.average = critic, settings, average
        self.parameters = list(critic.parameters())
        self.optimizer = new_adam(self.parameters, rate)

    def learn(self, x: Tensor, x_hat: Tensor) -> dict[str, float | Tensor]:
        """Steps on images and their reconstructions, [N, 3, h, w] each; the losses of the last."""
        settings, told = self.settings, dict[str, float | Tensor]()
        with torch.autocast(x.device.type, enabled=False):
            for _ in range(settings.critic_steps):
                wasserstein, penalty, norm = critic_terms(self.critic, x, x_hat.float())
                loss = wasserstein + settings.gradient_penalty * penalty + settings.norm_penalty * norm
                update(self.optimizer, self.parameters, loss, self.average)
                told = {"wasserstein": -wasserstein.detach(), "gradient_penalty": penalty.detach()}
        return told

    def term(self, x_hat: Tensor) -> Tensor:
        """The autoencoder's loss, weighted: -E[D(x_hat)], the critic standing still."""
        self.critic.requires_grad_(False)
        with torch.autocast(x_hat.device.type, enabled=False):
            loss = self.settings.weight * gan_losses.generator_loss(self.critic(x_hat.float()))
        self.critic.requires_grad_(True)
        return loss


def critic_terms(critic: nn.Module, x: Tensor, x_hat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Wasserstein loss, gradient penalty and mean squared values of a critic of [N, 3, h, w] each."""
    real, fake = critic(x), critic(x_hat)
    penalty = gan_losses.gradient_penalty(critic, x, x_hat)
    return gan_losses.critic_loss(real, fake), penalty, real.square().mean() + fake.square().mean()
