"""One training step of each detector: plain torch, no Ray, runs on a CPU in a test.

A trainee owns its networks and optimizers. `step(x, progress)` does one optimizer step of whatever phase `progress`
(0 to 1 through the run) is in, and returns its losses. Several workers average their gradients after each backward
pass (`average`): two networks and a double backward make DistributedDataParallel's hooks hard to reason about.
"""

import math
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from uadray.detectors import losses
from uadray.detectors.catalog import DpaConfig, FanoganConfig, Networks, PerceptualFeatures

Average = Callable[[Iterable[nn.Parameter]], None]


def alone(parameters: Iterable[nn.Parameter]) -> None:
    """The `average` of a single worker: nothing to do."""


class Trainee(Protocol):
    """A detector in training."""

    networks: Networks
    optimizers: dict[str, Optimizer]
    counts: dict[str, int]
    """What a checkpoint has to keep besides: what was counted since the first step."""

    def prepare(self, x: Tensor) -> None:
        """Look at some hundred normal tiles [N, 3, h, w] before the first step."""
        ...

    def step(self, x: Tensor, progress: float) -> dict[str, float]:
        """One step on x [N, 3, h, w] in [-1, 1]; the losses by name."""
        ...

    def reconstruct(self, x: Tensor) -> Tensor:
        """x_hat as it stands, for people to look at."""
        ...


class DpaTrainee:
    """Deep perceptual autoencoder: relative perceptual L1, Adam, half-cosine decay."""

    def __init__(self, config: DpaConfig, networks: Networks, *, average: Average = alone) -> None:
        self.config, self.networks, self.average = config, networks, average
        self.encoder, self.decoder, self.features = (networks[n] for n in ("encoder", "decoder", "features"))
        self.parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.optimizers: dict[str, Optimizer] = {"adam": torch.optim.Adam(self.parameters, lr=config.learning_rate)}
        self.counts: dict[str, int] = {}

    def prepare(self, x: Tensor) -> None:
        """Fit the normalisation of the features."""
        if not isinstance(self.features, PerceptualFeatures):
            raise TypeError(f"features: expected PerceptualFeatures, found {type(self.features).__name__}")
        self.features.fit(x)

    def step(self, x: Tensor, progress: float) -> dict[str, float]:
        """See `Trainee.step`."""
        optimizer = self.optimizers["adam"]
        for group in optimizer.param_groups:
            group["lr"] = self.config.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        with torch.no_grad():
            features = self.features(x)
        x_hat = self.decoder(self.encoder(x))
        perceptual = losses.relative_perceptual_l1(features, self.features(x_hat)).mean()
        loss = perceptual
        if self.config.pixel_weight:
            loss = loss + self.config.pixel_weight * losses.relative_l1(x, x_hat).mean()
        optimizer.zero_grad()
        loss.backward()
        self.average(self.parameters)
        optimizer.step()
        return {"perceptual": perceptual.item(), "loss": loss.item()}

    def reconstruct(self, x: Tensor) -> Tensor:
        """Decode what was encoded."""
        x_hat: Tensor = self.decoder(self.encoder(x))
        return x_hat


class FanoganTrainee:
    """WGAN-GP for the first part of the run, then the izi_f encoder against the frozen pair."""

    def __init__(self, config: FanoganConfig, networks: Networks, *, average: Average = alone) -> None:
        self.config, self.networks, self.average = config, networks, average
        self.generator, self.critic, self.encoder = (networks[n] for n in ("generator", "critic", "encoder"))
        rate, betas = config.gan_learning_rate, (0.0, 0.9)
        self.optimizers: dict[str, Optimizer] = {
            "generator": torch.optim.Adam(self.generator.parameters(), lr=rate, betas=betas),
            "critic": torch.optim.Adam(self.critic.parameters(), lr=rate, betas=betas),
            "encoder": torch.optim.Adam(self.encoder.parameters(), lr=config.encoder_learning_rate),
        }
        self.counts = {"critic_steps": 0}

    def prepare(self, x: Tensor) -> None:
        """Nothing to prepare."""

    def step(self, x: Tensor, progress: float) -> dict[str, float]:
        """A critic step (and every `critic_steps` a generator step), or an encoder step."""
        if trains_encoder(self.config, progress):
            return self.encoder_step(x)
        result = self.critic_step(x)
        self.counts["critic_steps"] += 1
        if self.counts["critic_steps"] % self.config.critic_steps == 0:
            result |= self.generator_step(x.shape[0], x.device)
        return result

    def critic_step(self, x: Tensor) -> dict[str, float]:
        """E[D(fake)] - E[D(real)] + penalty (Gulrajani et al. 2017, algorithm 1)."""
        with torch.no_grad():
            fake = self.generator(self._latents(x.shape[0], x.device))
        wasserstein = losses.critic_loss(self.critic(x), self.critic(fake))
        penalty = losses.gradient_penalty(self.critic, x, fake)
        self._update("critic", self.critic, wasserstein + self.config.penalty * penalty)
        return {"wasserstein": -wasserstein.item(), "gradient_penalty": penalty.item()}

    def generator_step(self, n: int, device: torch.device) -> dict[str, float]:
        """-E[D(G(z))], the critic frozen."""
        self.critic.requires_grad_(False)
        loss = losses.generator_loss(self.critic(self.generator(self._latents(n, device))))
        self._update("generator", self.generator, loss)
        self.critic.requires_grad_(True)
        return {"generator": loss.item()}

    def encoder_step(self, x: Tensor) -> dict[str, float]:
        """izi_f (Schlegl et al. 2019, eq. 4) with generator and critic frozen, as they will score."""
        self.generator.eval().requires_grad_(False)
        self.critic.eval().requires_grad_(False)
        x_hat = self.generator(self.encoder(x))
        critic = self.networks["critic"]
        f, f_hat = (critic.get_submodule("trunk")(t) for t in (x, x_hat))
        loss = losses.izi_f(x, x_hat, f, f_hat, kappa=self.config.kappa).mean()
        self._update("encoder", self.encoder, loss)
        return {"izi_f": loss.item()}

    def reconstruct(self, x: Tensor) -> Tensor:
        """G(E(x)), or G(z) of random z while there is no encoder yet: both are worth a look."""
        x_hat: Tensor = self.generator(self.encoder(x))
        return x_hat

    def _latents(self, n: int, device: torch.device) -> Tensor:
        return torch.randn(n, self.config.latent_dim, device=device)

    def _update(self, name: str, network: nn.Module, loss: Tensor) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad()
        loss.backward()
        self.average(network.parameters())
        optimizer.step()


def trains_encoder(config: FanoganConfig, progress: float) -> bool:
    """Whether a run is so far that generator and critic stand still."""
    return progress >= 1 - config.encoder_fraction


def what_to_lower(config: DpaConfig | FanoganConfig, progress: float) -> str:
    """The learning rate that is in use at `progress` (0 to 1), by its name in the configuration, and its value."""
    match config:
        case DpaConfig():
            return f"detector.learning_rate (now {config.learning_rate:g})"
        case FanoganConfig():
            if trains_encoder(config, progress):
                return f"detector.encoder_learning_rate (now {config.encoder_learning_rate:g})"
            return f"detector.gan_learning_rate (now {config.gan_learning_rate:g})"


def build_trainee(config: DpaConfig | FanoganConfig, networks: Networks, *, average: Average = alone) -> Trainee:
    """The trainee of a detector."""
    match config:
        case DpaConfig():
            return DpaTrainee(config, networks, average=average)
        case FanoganConfig():
            return FanoganTrainee(config, networks, average=average)
