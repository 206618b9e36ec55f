"""VQ-VAE with an autoregressive prior of its codes. https://arxiv.org/abs/2012.06765 .

Marimont and Tarroni 2020, "Anomaly detection through latent space restoration using vector-quantized variational
autoencoders"; the VQ-VAE is that of van den Oord et al. 2017, https://arxiv.org/abs/1711.00937 .

As in the paper: a VQ-VAE with a codebook of exponential averages learns normal tiles by their L1 distance; then it
stands still, and an autoregressive model learns how probable its codes are. A tile's score is the sum of the negative
log-likelihoods of codes that are above a threshold (7 nats). For a map, codes above another (5 nats) are drawn anew
from the prior, position by position, 15 times; the map is the mean residual of these restorations, in which the closest
weigh most, min-pooled and mean-pooled. Scores `reconstruction` (mean |x - x_hat|, with which the paper compares) and
`restoration` (mean of the map) are there besides.

Different: slices of volumes are tiles here, and squares are pooled, not cubes; the prior is a causal transformer (the
paper's: PixelSNAIL), for neither is told where a tile lies; the encoder is that of van den Oord et al.; codes out of
use start again. The paper's thresholds are for volumes of thousands of codes: a tile has 64, most of them none above 7
nats, so that `sample_threshold: null` sums all, and quantiles take a share of the codes of normal tiles in place of
nats. Which does best here: DECISIONS. The paper's text could not be opened: it is followed from its abstract and the
authors' code.

What it assumes: what is abnormal has textures, or neighbourhoods of textures, that are rare in normal tissue: a small
vocabulary of patches can tell them apart, and a model of normal sequences finds them improbable.
"""

import math
from collections.abc import Collection, Mapping
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from uadray import config as configuration
from uadray.detectors.detector import STAGES, Detector, Stage, assemble
from uadray.detectors.gradient_steps import update
from uadray.detectors.latents import Latent
from uadray.detectors.likelihood.coded_images import CodeMap, Decoding
from uadray.detectors.likelihood.improbable_codes import (
    NllHistogram,
    Restoration,
    improbable_sum,
    residual_of,
    smoothed,
)
from uadray.detectors.losses import l1
from uadray.detectors.scores import picture_of
from uadray.detectors.trainee import Average, Losses
from uadray.networks.code_prior import CodePrior
from uadray.networks.codebook import Codebook, Uses, commitment_loss, straight_through
from uadray.networks.outline import Networks
from uadray.networks.vq_vae import Decoder, Encoder

Measure = Literal["codes", "reconstruction", "restoration"]

LOWEST_RATE = 0.02
"""Share of the learning rate that is left at the end of a phase, along a half cosine."""


class Config(configuration.Config):
    """A VQ-VAE, the prior of its codes, and how tiles are scored by them.

    Attributes:
        input_px: side of the tiles' centre that is seen.
        width: channels at half the resolution, see `uadray.networks.vq_vae`.
        halvings: of the side, down to the grid of codes.
        codes: of the codebook (paper: 128).
        code_dim: length of their vectors.
        commitment: beta, weight of the commitment loss (van den Oord et al.: 0.25).
        decay: gamma, what a step keeps of the codebook's averages (van den Oord et al., in 250,000 steps: 0.99).
        restarts: codes out of use start again at an output of the encoder.
        prior_width: of the transformer.
        prior_layers: of it.
        prior_heads: of it, a divisor of its width.
        autoencoder_fraction: share of the steps that train the VQ-VAE; the others train the prior.
        learning_rate: of Adam, of encoder and decoder.
        prior_learning_rate: of Adam, of the prior.
        score: of a tile: `codes`, `reconstruction` or `restoration`, see above.
        maps: what its map is of; None: of the same as its score. `codes` is the NLL of each code. The paper's are
            `restoration`, with scores of `codes`: the map is made of every tile that is scored, and restoring costs.
        sample_threshold: lambda of `codes`, in nats (paper: 7); None: all codes count.
        sample_quantile: of the codes of normal tiles, in its place.
        pixel_threshold: lambda of restorations, in nats (paper: 5).
        pixel_quantile: of the codes of normal tiles, in its place.
        restorations: of a tile, S (paper: 15).
        sharpness: k of the softmax of their weights (paper: 3).
        min_px: side of the square whose least pixel is taken (authors' implementation: 3).
        mean_px: of the square that is averaged after it (authors' implementation: 7, on slices of 160 px).
    """

    kind: Literal["vq_vae"]
    input_px: int = Field(default=64, ge=16, le=1024)
    width: int = Field(default=32, ge=4, le=256)
    halvings: int = Field(default=3, ge=1, le=6)
    codes: int = Field(default=128, ge=2, le=8192)
    code_dim: int = Field(default=64, ge=1, le=1024)
    commitment: float = Field(default=0.25, ge=0, le=1e3)
    decay: float = Field(default=0.99, ge=0, lt=1)
    restarts: bool = True
    prior_width: int = Field(default=128, ge=4, le=1024)
    prior_layers: int = Field(default=4, ge=1, le=32)
    prior_heads: int = Field(default=4, ge=1, le=64)
    autoencoder_fraction: float = Field(default=0.5, ge=0.01, le=0.99)
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    prior_learning_rate: float = Field(default=1e-3, gt=0, le=10)
    score: Measure = "codes"
    maps: Measure | None = None
    sample_threshold: float | None = Field(default=7.0, ge=0, le=100)
    sample_quantile: float | None = Field(default=None, gt=0, lt=1)
    pixel_threshold: float = Field(default=5.0, ge=0, le=100)
    pixel_quantile: float | None = Field(default=None, gt=0, lt=1)
    restorations: int = Field(default=15, ge=1, le=256)
    sharpness: float = Field(default=3.0, ge=0, le=1e3)
    min_px: int = Field(default=3, ge=1, le=63)
    mean_px: int = Field(default=7, ge=1, le=63)

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if self.input_px % 2**self.halvings:
            raise ValueError(f"input_px {self.input_px} cannot be halved {self.halvings} times")
        if self.positions > 1024:
            raise ValueError(f"{self.positions} codes a tile, at most 1024: raise halvings or lower input_px")
        if self.prior_width % self.prior_heads:
            raise ValueError(f"prior_width {self.prior_width} is no multiple of prior_heads {self.prior_heads}")
        if not self.min_px % 2 or not self.mean_px % 2:
            raise ValueError(f"min_px {self.min_px} and mean_px {self.mean_px} are to be odd: squares have a middle")
        return self

    @property
    def positions(self) -> int:
        """Codes of a tile."""
        side: int = self.input_px // 2**self.halvings
        return side * side

    @property
    def least_steps(self) -> int:
        """Of a training: both phases have one at the least."""
        return math.ceil(1 / min(self.autoencoder_fraction, 1 - self.autoencoder_fraction)) + 1


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """None: everything is trained here."""
    return ()


def networks(config: Config, *, pretrained: bool) -> Networks:
    """Encoder, codebook, decoder, the prior of codes, and how probable codes of normal tiles are."""
    sizes = {"width": config.width, "halvings": config.halvings, "code_dim": config.code_dim}
    return {
        "encoder": Encoder(**sizes),
        "codebook": Codebook(config.codes, config.code_dim),
        "decoder": Decoder(**sizes),
        "prior": CodePrior(
            codes=config.codes, positions=config.positions, width=config.prior_width, layers=config.prior_layers,
            heads=config.prior_heads,
        ),
        "histogram": NllHistogram(),
    }  # fmt: skip


class CodeScore:
    """The stage `score`: that of the codes, of the reconstruction, or of restorations, and the map of one of these."""

    def __init__(self, config: Config, networks: Mapping[str, nn.Module]) -> None:
        self.config, self.maps = config, config.maps or config.score
        self.prior, histogram = cast(CodePrior, networks["prior"]), cast(NllHistogram, networks["histogram"])
        self.threshold = histogram.threshold(config.sample_threshold, quantile=config.sample_quantile)
        self.restoration: Restoration | None = None
        if "restoration" in (config.score, self.maps):
            lowest = histogram.threshold(config.pixel_threshold, quantile=config.pixel_quantile)
            self.restoration = Restoration(
                self.prior, Decoding(networks), 0.0 if lowest is None else lowest, config.restorations, config.sharpness
            )

    def __call__(
        self, x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"] | None, z: Latent
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h2 w2"]]:
        """Z are the codes."""
        codes, x_hat = cast(Tensor, z), picture_of(x_hat)
        nll = self.prior.nll(codes.flatten(1))
        maps = {name: self._map(name, x, x_hat, codes, nll) for name in {self.config.score, self.maps}}
        match self.config.score:
            case "codes":
                score = improbable_sum(nll, self.threshold)
            case "reconstruction":
                score = l1(x, x_hat)
            case "restoration":
                score = maps["restoration"].flatten(1).mean(1)
        return score, maps[self.maps]

    def _map(self, name: Measure, x: Tensor, x_hat: Tensor, codes: Int[Tensor, "n h w"], nll: Tensor) -> Tensor:
        if name == "codes":
            return nll.view(codes.shape)
        if name == "reconstruction" or self.restoration is None:
            residual = residual_of(x, x_hat)
        else:
            residual = self.restoration.residual(x, x_hat, codes, nll)
        return smoothed(residual, min_px=self.config.min_px, mean_px=self.config.mean_px)


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Codes, their decoder, and the score that the configuration names."""
    return assemble(
        networks,
        mapping=CodeMap,
        reconstruct=Decoding,
        score=lambda placed: CodeScore(config, placed),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages,
    )  # fmt: skip


class Trainee:
    """The VQ-VAE; then it stands still, and the prior learns its codes."""

    phases: tuple[str, ...] = ("autoencoder", "prior")

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        codebook, prior, histogram = networks["codebook"], networks["prior"], networks["histogram"]
        if not isinstance(codebook, Codebook) or not isinstance(prior, CodePrior):
            raise TypeError(f"codebook, prior: found {type(codebook).__name__}, {type(prior).__name__}")
        self.config, self.networks, self.average = config, networks, average
        self.encoder, self.decoder = networks["encoder"], networks["decoder"]
        self.codebook, self.prior, self.histogram = codebook, prior, cast(NllHistogram, histogram)
        self.parameters = {
            "autoencoder": [*self.encoder.parameters(), *self.decoder.parameters()],
            "prior": list(prior.parameters()),
        }
        self.rates = {"autoencoder": config.learning_rate, "prior": config.prior_learning_rate}
        self.optimizers: dict[str, Optimizer] = {
            name: Adam(self.parameters[name], lr=rate, fused=self.parameters[name][0].is_cuda or None)
            for name, rate in self.rates.items()
        }
        self.counts: dict[str, int] = {}

    def phase(self, progress: float) -> str:
        """The VQ-VAE in its share of the steps, then the prior."""
        return self.phases[progress >= self.config.autoencoder_fraction]

    def learning_rate(self, progress: float) -> str:
        """Of the network that learns."""
        return "learning_rate" if self.phase(progress) == "autoencoder" else "prior_learning_rate"

    @torch.no_grad()
    def prepare(self, x: Tensor) -> None:
        """Codes begin at what the untrained encoder says of normal tiles."""
        self.codebook.start(self.encoder(x))

    def step(self, x: Tensor, progress: float) -> Losses:
        """One step on x [N, 3, h, w] in [-1, 1] of the network whose turn it is."""
        name, until = self.phase(progress), self.config.autoencoder_fraction
        done = progress / until if name == "autoencoder" else (progress - until) / (1 - until)
        for group in self.optimizers[name].param_groups:
            group["lr"] = self.rates[name] * (LOWEST_RATE + (1 - LOWEST_RATE) * 0.5 * (1 + math.cos(math.pi * done)))
        return self.autoencoder_step(x) if name == "autoencoder" else self.prior_step(x)

    def autoencoder_step(self, x: Tensor) -> Losses:
        """Encoder and decoder down the gradient of reconstruction and commitment; then the codebook follows."""
        h = self.encoder(x)
        codes = self.codebook(h)
        q = self.codebook.lookup(codes)
        reconstruction = l1(x, self.decoder(straight_through(h, q)).float()).mean()
        commitment = commitment_loss(h, q)
        loss = reconstruction + self.config.commitment * commitment
        update(self.optimizers["autoencoder"], self.parameters["autoencoder"], loss, self.average)
        uses = self.codebook.uses(h, codes)
        self.average(uses)
        self.codebook.follow(Uses(*uses), decay=self.config.decay, restarts=self.config.restarts)
        return {
            "reconstruction": reconstruction.detach(),
            "commitment": commitment.detach(),
            "perplexity": self.codebook.perplexity(),
        }

    def prior_step(self, x: Tensor) -> Losses:
        """The prior down the gradient of the codes' cross entropy."""
        with torch.no_grad():
            codes = self.codebook(self.encoder(x)).flatten(1)
        nll = self.prior.nll(codes)
        update(self.optimizers["prior"], self.parameters["prior"], nll.mean(), self.average)
        shares = self.histogram.counted(nll)
        self.average([shares])
        self.histogram.add(shares)
        return {"nll": nll.mean().detach()}

    def finish(self) -> None:
        """Nothing is fitted after the last step."""

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Decode the codes."""
        return Decoding(self.networks)(self.codebook(self.encoder(x)))
