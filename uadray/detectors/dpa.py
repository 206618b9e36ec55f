"""Deep perceptual autoencoder. https://arxiv.org/abs/2006.13265 .

Tuluptceva et al. 2020, "Anomaly Detection with Deep Perceptual Autoencoders".

As in the paper: a convolutional autoencoder of pre-activation residual blocks with a small spatial bottleneck, trained
with the relative perceptual L1 loss on frozen features (see `uadray.detectors.losses`), and the same loss as score. It
may grow from a low resolution to its own, the loss growing with it; a pixel and an adversarial term are for the paper's
ablations. `layout: published` has the sizes of the authors' configurations: two blocks a resolution, as many channels
everywhere, no batch normalisation, a start by fan-out.

Different: features are normalised by statistics of the normal tiles that are trained on (the authors': of ImageNet); a
block halves behind its convolutions, not between them; a way in at a lower resolution is one convolution, without
blocks; images are made smaller by means over areas; Adam keeps its moments when a resolution is added; the critic's
steps are on the tiles of the autoencoder's step. The scores `relative_l2` and `mahalanobis` are not of the paper, which
scores by its loss alone.

What it assumes: what is abnormal has textures that do not pass a small bottleneck which normal tiles have learned.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import chain
from typing import Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from uadray import config as configuration
from uadray.config import parse_config
from uadray.detectors import losses
from uadray.detectors.autoencoding import growing
from uadray.detectors.autoencoding.adversary import Adversarial, Adversary
from uadray.detectors.autoencoding.growing import GrowingAutoencoder, LayerName, Resolution
from uadray.detectors.autoencoding.reconstruction_terms import Terms, TermsScore
from uadray.detectors.autoencoding.residuals import MahalanobisScore, Residuals
from uadray.detectors.description import BundleDescription, detector_description
from uadray.detectors.detector import STAGES, Detector, Stage, assemble
from uadray.detectors.features.perceptual import PerceptualFeatures
from uadray.detectors.gradient_steps import new_adam, update
from uadray.detectors.latents import EncoderMap
from uadray.detectors.scores import PerceptualScore
from uadray.detectors.trainee import Average, Losses
from uadray.errors import InputError
from uadray.networks.autoencoder import Critic, Decoder, Encoder, Growth, Layout, start_by_fan_out
from uadray.networks.backbones import build_backbone
from uadray.networks.bundle_folder import opened_weights
from uadray.networks.outline import Networks, outline

DISTANCES = {"relative_l1": losses.relative_perceptual_l1, "relative_l2": losses.relative_perceptual_l2}


class Config(configuration.Config):
    """A deep perceptual autoencoder.

    Attributes:
        input_px: side of the network's input; larger tiles are cropped (at random in training, centred in scoring).
        backbone: the frozen network whose features compare image and reconstruction.
        layers: its layers, by the names of `uadray.networks.backbones`.
        width: channels at full resolution.
        halvings: how often the side is halved down to the latent.
        latent_channels: channels of the latent; with `halvings` they set how much of an image can pass.
        score: `relative_l1`, the training loss (the paper), or `relative_l2`, the same with squared differences, so
            that a few large differences count for more than many small ones (its worth: DECISIONS.md, 2026-11-22);
            `loss`: the reconstruction terms of the training loss, pixels included; `mahalanobis`: the residual of the
            features against those of held-out normal tiles, see `autoencoder`.
        pixel_weight: weight of the pixel loss beside the perceptual loss.
        learning_rate: of Adam, falling to 2 % along a half cosine.
        schedule: `constant` leaves the learning rate as it is (the paper).
        layout: `published`: see above; None: one block a resolution, channels that double with each halving up to 64,
            batch normalisation.
        perceptual_weight: weight of the perceptual loss; None: 1. 0 trains on pixels alone.
        normalised: whether features are normalised by channel; None: yes.
        relative: whether their distance is divided by their own size; None: yes.
        pixel_loss: `l1`, mean absolute difference (the paper); None: relative to the tile's own contrast.
        adversarial: an adversarial term; None: there is none.
        growing: resolutions in their order, up to `input_px`; None: it is trained at `input_px` alone.
        autoencoder: of `mahalanobis`: URI of the bundle of a trained one. Its networks are taken and stand still, and
            all steps see the residuals of normal tiles that it was not trained on. In training alone: the written
            bundle has its networks inside.
    """

    kind: Literal["dpa"]
    input_px: int = Field(default=64, ge=16, le=1024)
    backbone: Literal["efficientnet_lite0", "vgg16", "vgg19", "alexnet"] = "efficientnet_lite0"
    layers: tuple[LayerName, ...] = Field(default=("block4", "block7"), min_length=1, max_length=32)
    width: int = Field(default=16, ge=2, le=256)
    halvings: int = Field(default=3, ge=1, le=6)
    latent_channels: int = Field(default=4, ge=1, le=1024)
    score: Literal["relative_l1", "relative_l2", "loss", "mahalanobis"] = "relative_l1"
    pixel_weight: float = Field(default=0.0, ge=0, le=1e6)
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    schedule: Literal["constant"] | None = None
    layout: Literal["published"] | None = None
    perceptual_weight: float | None = Field(default=None, ge=0, le=1e6)
    normalised: bool | None = None
    relative: bool | None = None
    pixel_loss: Literal["l1"] | None = None
    adversarial: Adversarial | None = None
    growing: tuple[Resolution, ...] | None = Field(default=None, min_length=2, max_length=6)
    autoencoder: str | None = Field(default=None, min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if self.input_px % 2**self.halvings:
            raise ValueError(f"input_px {self.input_px} cannot be halved {self.halvings} times")
        if self.perceptual_weight == 0 and not self.pixel_weight:
            raise ValueError("perceptual_weight and pixel_weight are both 0; nothing would be learned")
        if self.autoencoder is not None and self.score != "mahalanobis":
            raise ValueError(f"autoencoder is for score mahalanobis; score {self.score} trains one of its own")
        if self.growing and self.adversarial:
            raise ValueError("growing and adversarial do not go together: the critic does not grow")
        if self.growing and (
            problem := growing.problem_of(
                self.growing, input_px=self.input_px, halvings=self.halvings, layers=self.layers
            )
        ):
            raise ValueError(problem)
        return self


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """The frozen backbone; where a trained autoencoder is taken, it has it."""
    return () if config.autoencoder else (config.backbone,)


def networks(config: Config, *, pretrained: bool) -> Networks:
    """Encoder and decoder, untrained, and the frozen features; of `config.autoencoder`, where `pretrained`, trained.

    Raises:
        InputError: the backbone has no such layer; or that bundle cannot be opened, or is of another autoencoder.
    """
    if pretrained and config.autoencoder:
        return borrowed_networks(config, config.autoencoder)
    layout = layout_of(config)
    layers = backbone_layers(config)
    backbone = build_backbone(config.backbone, layers, pretrained=pretrained)
    named: Networks = {
        "encoder": Encoder(layout),
        "decoder": Decoder(layout),
        "features": PerceptualFeatures(backbone, list(backbone.channels), scored=len(config.layers)),
    }
    if config.growing:
        named["growth"] = Growth(layout, levels=len(config.growing) - 1)
    if config.adversarial:
        named["critic"] = Critic(width=config.width, input_px=config.input_px, blocks=layout.blocks)
    if config.layout == "published":
        for name in ("encoder", "decoder", "growth", "critic"):
            if name in named:
                start_by_fan_out(named[name])
    if config.score == "mahalanobis":
        named["residuals"] = Residuals(backbone.channels[: len(config.layers)])
    return named


def layout_of(config: Config) -> Layout:
    """How encoder and decoder are made."""
    sizes = Layout(width=config.width, halvings=config.halvings, latent_channels=config.latent_channels)
    return replace(sizes, widest=config.width, blocks=2, batch_norm=False) if config.layout == "published" else sizes


def backbone_layers(config: Config) -> tuple[LayerName, ...]:
    """The layers that are scored by, then those that the loss has besides at lower resolutions."""
    others = (layer for each in config.growing or () for layer in each.layers)
    return tuple(dict.fromkeys([*config.layers, *others]))


class AutoencoderBundle(BundleDescription):
    """`bundle.json` of a deep perceptual autoencoder."""

    detector: Config  # type: ignore[assignment]  # has `kind` and `input_px` as every `Architecture`


def read_autoencoder(uri: str) -> AutoencoderBundle:
    """What the bundle of a trained autoencoder says.

    Raises:
        InputError: no bundle there, or one of another detector.
    """
    return parse_config(AutoencoderBundle, detector_description(uri), source=f"bundle {uri}")


def with_autoencoder(config: Config, trained: Config) -> Config:
    """The configuration with the sizes of a trained autoencoder, where it does not say the same itself.

    Raises:
        InputError: it says otherwise.
    """
    own = {"score": config.score, "autoencoder": config.autoencoder}
    values = trained.model_dump(mode="json") | own
    asked = config.model_dump(mode="json", include=config.model_fields_set)
    for name, value in asked.items():
        if value != values[name]:
            raise InputError(
                f"autoencoder {config.autoencoder} has {name} {values[name]}; leave detector.{name} out (it is {value})"
            )
    return Config.model_validate(values)


def borrowed_networks(config: Config, uri: str) -> Networks:
    """The networks of a trained autoencoder, and residuals of which none is counted.

    Raises:
        InputError: no bundle there, or one of another autoencoder than the configuration says.
    """
    bundle = read_autoencoder(uri)
    complete = with_autoencoder(config, bundle.detector)
    if complete != config:
        raise InputError(f"detector is not that of autoencoder {uri}; take the configuration's fields from its bundle")
    shapes = outline(lambda: networks(bundle.detector, pretrained=False), name="detector dpa")
    with opened_weights(uri, shapes, sha256=bundle.weights_sha256) as opened:
        taken = {name: opened[name] for name in shapes if name != "residuals"}
    channels = cast(PerceptualFeatures, taken["features"]).channels
    return taken | {"residuals": Residuals(channels[: len(config.layers)])}


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Encoder, decoder, and the distance that `config.score` names."""
    return assemble(
        networks,
        mapping=lambda placed: EncoderMap(placed["encoder"]),
        reconstruct=lambda placed: placed["decoder"],
        score=lambda placed: score_of(config, placed),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages,
    )  # fmt: skip


def score_of(config: Config, networks: Mapping[str, nn.Module]) -> PerceptualScore | MahalanobisScore | TermsScore:
    """The stage `score`."""
    match config.score:
        case "loss":
            return TermsScore(networks["features"], terms_of(config))
        case "mahalanobis":
            return MahalanobisScore(networks["features"], networks["residuals"])
        case distance:
            return PerceptualScore(networks["features"], distance=DISTANCES[distance])


def terms_of(config: Config) -> Terms:
    """The terms of the reconstruction loss."""
    return Terms(
        perceptual_weight=1.0 if config.perceptual_weight is None else config.perceptual_weight,
        relative=config.relative is not False,
        pixel_weight=config.pixel_weight,
        pixel_loss=config.pixel_loss or "relative_l1",
    )


class Trainee:
    """Reconstruction loss and Adam; or, with a trained autoencoder, the residuals of normal tiles."""

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        self.config, self.networks, self.average = config, networks, average
        self.features, self.residuals = networks["features"], networks.get("residuals")
        self.growing, self.terms = growing_autoencoder(config, networks), terms_of(config)
        self.adversary: Adversary | None = None
        self.parameters = list(self.growing.parameters())
        self.counts: dict[str, int] = {}
        self.optimizers: dict[str, Optimizer] = {}
        if self.residuals is None:
            self.optimizers["adam"] = new_adam(self.parameters, config.learning_rate)
        if self.residuals is None and config.adversarial is not None:
            self.adversary = Adversary(networks["critic"], config.adversarial, config.learning_rate, average)
            self.optimizers["critic"] = self.adversary.optimizer
        self.phases: tuple[str, ...] = self.growing.phases if self.residuals is None else ("residuals",)

    def phase(self, progress: float) -> str:
        """The resolution that is learned, where it grows."""
        return self.growing.phase(progress) if self.residuals is None else self.phases[0]

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration that the networks learn by."""
        return "learning_rate" if self.optimizers else ""

    def prepare(self, x: Tensor) -> None:
        """Fit the normalisation of the features; those of a trained autoencoder have theirs.

        Raises:
            InputError: residuals are to be seen, and no trained autoencoder is named.
        """
        if not isinstance(self.features, PerceptualFeatures):
            raise TypeError(f"features: expected PerceptualFeatures, found {type(self.features).__name__}")
        if self.residuals is not None:
            if self.config.autoencoder is None:
                raise InputError("detector.score mahalanobis: detector.autoencoder is missing; name a trained bundle")
        elif self.config.normalised is not False:
            self.features.fit(x)

    def step(self, x: Tensor, progress: float) -> Losses:
        """One step on x [N, 3, h, w] in [-1, 1]; the losses."""
        self.growing.move_to(progress)
        if self.residuals is not None:
            return self.residual_step(x)
        rate = self.config.learning_rate
        if self.config.schedule != "constant":
            rate *= 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
        return self.autoencoder_step(self.growing.seen(x))

    def autoencoder_step(self, x: Tensor) -> Losses:
        """One step of Adam on x of the side that is learned, after those of the critic if there is one."""
        terms, told = self.terms, dict[str, float | Tensor]()
        features = self._features_of(x)
        x_hat = self.growing.x_hat(x)
        if self.adversary is not None:
            told |= self.adversary.learn(x, x_hat.detach())
        loss = x_hat.new_zeros((), dtype=torch.float32)
        if terms.perceptual_weight:
            perceptual = self.growing.mean_distance(
                features, self.growing.views(self.features, x_hat), terms.perceptual
            )
            told["perceptual"] = perceptual.detach()
            loss = terms.perceptual_weight * perceptual
        if terms.pixel_weight:
            loss = loss + terms.pixel_weight * terms.pixel(x, x_hat.float()).mean()
        if self.adversary is not None:
            loss = loss + self.adversary.term(x_hat)
        update(self.optimizers["adam"], self.parameters, loss, self.average)
        return told | {"loss": loss.detach()}

    @torch.no_grad()
    def _features_of(self, x: Tensor) -> list[list[Tensor]]:
        return self.growing.views(self.features, x) if self.terms.perceptual_weight else []

    @torch.no_grad()
    def residual_step(self, x: Tensor) -> Losses:
        """Count the residuals of x [N, 3, h, w], networks in the mode in which they score."""
        for network in self.networks.values():
            network.eval()
        residuals = cast(Residuals, self.residuals)
        features, features_hat = self.features(x), self.features(self.reconstruct(x))
        sums = residuals.sums([f - f_hat for f, f_hat in zip(features, features_hat, strict=True)])
        self.average(chain.from_iterable(sums))
        residuals.add(sums)
        return {"perceptual": losses.relative_perceptual_l1(features, features_hat).mean()}

    def finish(self) -> None:
        """Fit mean and covariance of the residuals, where they were seen."""
        if self.residuals is not None:
            cast(Residuals, self.residuals).fit()

    def reconstruct(self, x: Tensor) -> Tensor:
        """Decode what was encoded; while it grows, at the resolution that is learned, enlarged."""
        return self.growing.reconstruct(x) if self.residuals is None else self.growing.grown_up(x)


def growing_autoencoder(config: Config, networks: Networks) -> GrowingAutoencoder:
    """Encoder and decoder as they are trained."""
    layers = backbone_layers(config)
    numbers = [[layers.index(layer) for layer in each.layers] for each in config.growing or ()]
    return GrowingAutoencoder(
        cast(Encoder, networks["encoder"]), cast(Decoder, networks["decoder"]),
        cast(Growth | None, networks.get("growth")), config.growing or (), numbers,
    )  # fmt: skip
