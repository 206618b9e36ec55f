"""How an encoder learns to find latents of a trained generator: ziz, izi and izi_f (Schlegl et al. 2019)."""

from typing import Literal

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from uadray.detectors import losses
from uadray.detectors.inversion.critic_part import CriticPart
from uadray.detectors.inversion.encoder_losses import izi, ziz
from uadray.detectors.inversion.encoders import StyleEncoder
from uadray.detectors.inversion.generator_part import frozen
from uadray.detectors.inversion.latent_space import LatentSpace, Space
from uadray.detectors.trainee import Average
from uadray.generators.catalog import GeneratorConfig
from uadray.networks.outline import Networks

EncoderLoss = Literal["izi_f", "izi", "ziz"]


class EncoderTraining:
    """Steps of the encoder; the generator's networks stand still, as they will score.

    Attributes:
        phase: its name.
        optimizers: by the name of the network that it moves.

    Args:
        config: of the generator.
        networks: of it, and `encoder`.
        space: that the encoder maps to.
        loss: by its name in the paper.
        kappa: weight of the feature residual in izi_f.
        learning_rate: of Adam.
        average: over the workers.
    """

    phase = "encoder"

    def __init__(
        self, config: GeneratorConfig, networks: Networks, *, space: Space, loss: EncoderLoss, kappa: float,
        learning_rate: float, average: Average,
    ) -> None:  # fmt: skip
        self.config, self.space_name, self.loss, self.kappa = config, space, loss, kappa
        self.average, self.encoder = average, networks["encoder"]
        self.given = {name: network for name, network in networks.items() if network is not self.encoder}
        self.optimizers: dict[str, Optimizer] = {"encoder": Adam(self.encoder.parameters(), lr=learning_rate)}

    @property
    def space(self) -> LatentSpace:
        """Of the generator as it stands."""
        return LatentSpace(self.config, self.given, self.space_name)

    def begin(self) -> None:
        """Point the encoder to where latents lie, before its first step."""
        frozen(self.given)
        if isinstance(self.encoder, StyleEncoder):
            self.encoder.centre(self.space)

    def drawn(self, n: int) -> Tensor | None:
        """Latents [n, ...] for a step of ziz, other ones at each call; izi needs none."""
        return self.space.drawn(n, seed=int(torch.randint(2**62, ()))) if self.loss == "ziz" else None

    def step(self, x: Tensor, z: Tensor | None) -> dict[str, Tensor]:
        """Lower the loss on tiles x [N, 3, h, w] in [-1, 1], or on latents z [N, ...]; the loss by its name."""
        frozen(self.given)
        loss = self.loss_of(x, z).mean()
        optimizer = self.optimizers["encoder"]
        optimizer.zero_grad()
        loss.backward()
        self.average([p.grad for p in self.encoder.parameters() if p.grad is not None])
        optimizer.step()
        return {self.loss: loss.detach()}

    def loss_of(self, x: Tensor, z: Tensor | None) -> Tensor:
        """[N]: ziz on latents where there are any, else izi or izi_f on tiles."""
        if z is not None:
            with torch.no_grad():
                drawn = self.space.pictures(z).clamp(-1, 1)
            return ziz(z, self.encoder(drawn))
        x_hat = self.space.pictures(self.encoder(x))
        if self.loss == "izi":
            return izi(x, x_hat)
        critic = CriticPart(self.config, self.given)
        with torch.no_grad():
            features = critic.features(x)
        return losses.izi_f(x, x_hat, features, critic.features(x_hat), kappa=self.kappa)
