"""Adversarially learned inference, with which f-AnoGAN is compared. https://arxiv.org/abs/1606.00704 .

Dumoulin et al. 2017, algorithm 1: encoder and generator learn together to deceive a discriminator of pairs, which tells
(x, E(x)) of a tile x from (G(z), z) of a drawn z. What they deceive it with is the loss that does not saturate, of
either pair. Adam with betas 0.5 and 0.999.

Different: the encoder is deterministic, as in BiGAN (Donahue et al. 2017, https://arxiv.org/abs/1605.09782), so that a
tile has one latent; or, where asked for, it says a Gaussian as in the paper, from which the pairs of the training are
drawn, and a tile is mapped to its mean (`DrawingEncoder`). The generator is one of this project's, at full size from
the first step on; the discriminator has the trunk of WGAN-GP's critic and no dropout.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from uadray.detectors.inversion.encoders import IziEncoder
from uadray.detectors.likelihood.gaussians import gaussian_of, reparameterised
from uadray.detectors.trainee import Average
from uadray.generators import gan_losses
from uadray.generators.averaging import follow
from uadray.generators.catalog import GeneratorConfig, file_of
from uadray.networks.outline import Networks
from uadray.networks.wgan_gp import Trunk

BETAS = (0.5, 0.999)

AVERAGE_DECAY = 0.99
"""Kept of the generator's average at each step, for generators that have one."""

HIDDEN = 32
"""Of the discriminator's layers, in multiples of the width: 512 at a width of 16."""

SLOPE = 0.2


class PairDiscriminator(nn.Module):
    """(x, z) to a logit: high on the tiles and what the encoder makes of them.

    Args:
        width: channels at full resolution.
        input_px: side of the image.
        latent_dim: length of z.
    """

    def __init__(self, *, width: int, input_px: int, latent_dim: int) -> None:
        super().__init__()
        hidden = HIDDEN * width
        self.trunk = Trunk(width=width, input_px=input_px)
        self.of_image = nn.Linear(self.trunk.features, hidden)
        self.of_latent = nn.Sequential(nn.Linear(latent_dim, hidden), nn.LeakyReLU(SLOPE), nn.Linear(hidden, hidden))
        self.together = nn.Linear(2 * hidden, hidden)
        self.logit = nn.Linear(hidden, 1)

    def features(self, x: Float[Tensor, "n 3 h w"], z: Float[Tensor, "n latent"]) -> Float[Tensor, "n hidden"]:
        """The last layer before the logit, by which A_D compares; x in [-1, 1]."""
        parts = [self.of_image(F.relu(self.trunk(x)).flatten(1)), self.of_latent(z)]
        return F.leaky_relu(self.together(F.leaky_relu(torch.cat(parts, 1), SLOPE)), SLOPE)

    def forward(self, x: Float[Tensor, "n 3 h w"], z: Float[Tensor, "n latent"]) -> Float[Tensor, " n"]:
        """X in [-1, 1]."""
        value: Tensor = self.logit(self.features(x, z))
        return value.squeeze(1)


class DrawingEncoder(nn.Module):
    """Image to a Gaussian over z with independent coordinates, q(z | x) of the paper.

    Args:
        width: channels at full resolution.
        input_px: side of the image.
        latent_dim: length of z.
    """

    def __init__(self, *, width: int, input_px: int, latent_dim: int) -> None:
        super().__init__()
        self.to_gaussian = IziEncoder(width=width, input_px=input_px, latent_dim=2 * latent_dim)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n latent"]:
        """The mean, of x in [-1, 1]."""
        mean, _ = gaussian_of(self.to_gaussian(x))
        return mean.contiguous()

    def drawn(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n latent"]:
        """A draw, other at each call, with gradients to mean and variance (eq. 3)."""
        mean, log_variance = gaussian_of(self.to_gaussian(x).float())
        return reparameterised(mean, log_variance, torch.randn_like(mean))


def ali_discriminator_loss(encoded: Float[Tensor, " n"], drawn: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """-E[log s(D(x, E(x)))] - E[log(1 - s(D(G(z), z)))], of logits (Dumoulin et al. 2017, algorithm 1)."""
    return gan_losses.logistic_discriminator_loss(encoded, drawn)


def ali_generator_loss(encoded: Float[Tensor, " n"], drawn: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """-E[log(1 - s(D(x, E(x))))] - E[log s(D(G(z), z))], of encoder and generator (algorithm 1)."""
    return gan_losses.logistic_discriminator_loss(drawn, encoded)


class AliTraining:
    """A step of the discriminator of pairs, then one of encoder and generator.

    Attributes:
        phase: its name.
        optimizers: by the names of the networks that they move.

    Args:
        config: of the generator.
        networks: of it, `encoder` and `pair_discriminator`.
        learning_rate: of Adam.
        average: over the workers.
    """

    phase = "ali"

    def __init__(self, config: GeneratorConfig, networks: Networks, *, learning_rate: float, average: Average) -> None:
        self.config, self.networks, self.average = config, networks, average
        self.generator, self.encoder = networks["generator"], networks["encoder"]
        self.discriminator = networks["pair_discriminator"]
        self.optimizers: dict[str, Optimizer] = {
            name: Adam(networks[name].parameters(), lr=learning_rate, betas=BETAS)
            for name in ("generator", "encoder", "pair_discriminator")
        }

    def begin(self) -> None:
        """Nothing stands still."""

    def drawn(self, n: int) -> Tensor:
        """Latents z [n, latent] for a step, on the device of the networks; other ones at each call."""
        rng = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        z = file_of(self.config).latents(self.config, n, rng=rng)
        return z.to(next(self.generator.parameters()).device)

    def step(self, x: Tensor, z: Tensor | None) -> dict[str, Tensor]:
        """Both on tiles x [N, 3, h, w] in [-1, 1] and latents z [N, latent] that were `drawn`; their losses."""
        if z is None:
            raise ValueError("pairs need latents: see `drawn`")
        losses = self.discriminator_step(x, z) | self.generator_step(x, z)
        if "average" in self.networks:
            follow(self.networks["average"], self.generator, decay=AVERAGE_DECAY)
        return losses

    def discriminator_step(self, x: Tensor, z: Tensor) -> dict[str, Tensor]:
        """Tell pairs of tiles from pairs of drawn latents z [N, latent]."""
        with torch.no_grad():
            x_hat, z_hat = self.generator(z), self._encoded(x)
        encoded, drawn = self.discriminator(x, z_hat), self.discriminator(x_hat, z)
        loss = ali_discriminator_loss(encoded, drawn)
        self._update(loss, "pair_discriminator")
        accuracy = torch.cat([encoded > 0, drawn < 0]).float().mean()
        return {"pair_discriminator": loss.detach(), "pair_accuracy": accuracy}

    def generator_step(self, x: Tensor, z: Tensor) -> dict[str, Tensor]:
        """Deceive it, the discriminator frozen."""
        torch.clear_autocast_cache()  # it has the discriminator as it was before its step
        self.discriminator.requires_grad_(False)
        loss = ali_generator_loss(self.discriminator(x, self._encoded(x)), self.discriminator(self.generator(z), z))
        self._update(loss, "generator", "encoder")
        self.discriminator.requires_grad_(True)
        return {"ali": loss.detach()}

    def _encoded(self, x: Tensor) -> Tensor:
        z: Tensor = self.encoder.drawn(x) if isinstance(self.encoder, DrawingEncoder) else self.encoder(x)
        return z

    def _update(self, loss: Tensor, *names: str) -> None:
        for name in names:
            self.optimizers[name].zero_grad()
        loss.backward()
        parameters = [p for name in names for p in self.networks[name].parameters()]
        self.average([p.grad for p in parameters if p.grad is not None])
        for name in names:
            self.optimizers[name].step()
