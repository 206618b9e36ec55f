"""Deep anomaly detection using geometric transformations (Deep GEO). https://arxiv.org/abs/1805.10917 .

Golan and El-Yaniv 2018.

As in the paper: a wide residual network learns which of 72 transformations (flip or not, nine translations, four
rotations) was done to a normal tile. Of each transformation a Dirichlet distribution is fitted to its softmax outputs
on normal tiles, and a tile's score is minus the mean of their log-likelihoods (`score: softmax` is the paper's simpler
one, minus the mean probability of what was done). A tile takes as many passes as there are transformations.

Different: one transformation, drawn at random, is learned from each tile that a step sees, not all of them; outputs
are averaged over all positions; likelihoods are of probabilities plus 1e-6, in the fit as in the score.

What it assumes: normal images have an up, a left and a right, and a middle, by which their transformations are told,
and abnormal ones have others. Tissue has none of them: flips and rotations cannot be learned from it, and a translation
shows by its mirrored edge alone. So this is a baseline, and no advice.
"""

import itertools
from collections.abc import Collection, Mapping
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from uadray import config as configuration
from uadray.detectors.densities.dirichlet import dirichlet_mle
from uadray.detectors.detector import STAGES, Detector, Stage, assemble, no_picture
from uadray.detectors.latents import Latent
from uadray.detectors.trainee import Average, Losses, UnsuitableTilesError
from uadray.networks.outline import Networks
from uadray.networks.wide_resnet import WideResNet, check_depth

LEAST = 1e-6
"""Is added to probabilities before their logarithm (authors' implementation)."""

WEIGHT_DECAY = 5e-4
"""Of the classifier's weights (authors' implementation; 0.5 times it on squares, in their loss)."""

FIT_SHARE = 8
"""One of so many tiles of a step is seen in all its transformations while the distributions are fitted."""

Kind = Literal["flip", "translation", "rotation"]


class Config(configuration.Config):
    """Deep GEO. The paper's size: depth 10, widen 4 for 32 px; 16 and 8 for 64 px, 8 million weights.

    Attributes:
        input_px: side of the network's input; a tile is moved by a quarter of it.
        transformations: kinds that are put together: all three make 2 * 9 * 4.
        depth: of the network, 6 n + 4.
        widen: times 16, 32 and 64 channels.
        score: `dirichlet` (the paper), or `softmax`, its simpler one.
        fit_fraction: last share of the steps, in which the classifier stands still and the distributions are fitted.
        learning_rate: of Adam.
    """

    kind: Literal["deep_geo"]
    input_px: int = Field(default=32, ge=16, le=256)
    transformations: tuple[Kind, ...] = Field(default=("flip", "translation", "rotation"), min_length=1, max_length=3)
    depth: int = Field(default=10, ge=10, le=100)
    widen: int = Field(default=1, ge=1, le=16)
    score: Literal["dirichlet", "softmax"] = "dirichlet"
    fit_fraction: float = Field(default=0.1, gt=0, lt=1)
    learning_rate: float = Field(default=1e-3, gt=0, le=10)

    @model_validator(mode="after")
    def _sizes(self) -> "Config":
        check_depth(self.depth)
        if len(set(self.transformations)) < len(self.transformations):
            raise ValueError(f"transformations {', '.join(self.transformations)}: name each once")
        return self

    @property
    def least_steps(self) -> int:
        """Of a training: so many have one in which the distributions are fitted."""
        return int(1 / self.fit_fraction) + 1


def pixel_sources(config: Config, device: torch.device | str = "cpu") -> Int[Tensor, "t pixels"]:
    """Of every transformation, the number of the pixel (row by row) that each pixel of a transformed tile comes from.

    Flipped, then moved (what enters is mirrored, the edge's pixel twice), then turned. The first changes nothing.
    """
    side, move = config.input_px, config.input_px // 4
    pixels = torch.arange(side**2, device=device).view(side, side)
    flips = (False, True) if "flip" in config.transformations else (False,)
    moves = (0, -move, move) if "translation" in config.transformations else (0,)
    turns = range(4) if "rotation" in config.transformations else range(1)
    sources = []
    for flip, down, right, turn in itertools.product(flips, moves, moves, turns):
        moved = (pixels.flip(1) if flip else pixels)[_mirrored(side, down, device)][:, _mirrored(side, right, device)]
        sources.append(torch.rot90(moved, turn).flatten())
    return torch.stack(sources)


def _mirrored(side: int, shift: int, device: torch.device | str) -> Int[Tensor, " side"]:
    """Of every position the one that it comes from when all move by `shift`."""
    position = torch.arange(side, device=device) - shift
    position = torch.where(position < 0, -1 - position, position)
    return torch.where(position >= side, 2 * side - 1 - position, position)


def transformed(x: Float[Tensor, "n 3 h w"], sources: Int[Tensor, "n pixels"]) -> Float[Tensor, "n 3 h w"]:
    """Tiles, each transformed as its row of sources says."""
    moved = x.flatten(2).gather(2, sources[:, None].expand(-1, x.shape[1], -1))
    return moved.view(x.shape).contiguous(memory_format=torch.channels_last)


class Outputs(nn.Module):
    """What is fitted: of every transformation done, the distribution of what the classifier takes it for."""

    count: Tensor
    p: Tensor
    log_p: Tensor
    alpha: Tensor

    def __init__(self, transformations: int) -> None:
        super().__init__()
        square = (transformations, transformations)
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("p", torch.zeros(square, dtype=torch.float64))
        self.register_buffer("log_p", torch.zeros(square, dtype=torch.float64))
        self.register_buffer("alpha", torch.ones(square))

    def sums_of(self, p: Float[Tensor, "n t k"]) -> tuple[Tensor, Tensor, Tensor]:
        """Number and sums of outputs of tiles whose every transformation was seen."""
        p = p.double()
        return self.count.new_tensor(len(p)), p.sum(0), (p + LEAST).log().sum(0)

    def add(self, sums: tuple[Tensor, Tensor, Tensor]) -> None:
        """Count more outputs."""
        for buffer, more in zip((self.count, self.p, self.log_p), sums, strict=True):
            buffer += more

    def fit(self) -> None:
        """The distributions of all that has been counted.

        Raises:
            UnsuitableTilesError: that is nothing.
        """
        if not self.count:
            raise UnsuitableTilesError("no step of this training was left to fit the distributions; give it more steps")
        self.alpha.copy_(dirichlet_mle(self.p / self.count, self.log_p / self.count))


class TransformedOutputs:
    """Tiles -> what the classifier takes each of their transformations for. The stage `map`."""

    def __init__(self, config: Config, classifier: nn.Module) -> None:
        self.config, self.classifier = config, classifier
        self.sources: Tensor | None = None

    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n t k"]:
        """Probabilities [N, t, k] of taking transformation t for k; one pass a transformation, which bounds memory."""
        if self.sources is None or self.sources.device != x.device:
            self.sources = pixel_sources(self.config, x.device)
        outputs = [self.classifier(transformed(x, row.expand(len(x), -1))) for row in self.sources]
        return torch.stack(outputs, 1).float().softmax(2)


class DirichletScore:
    """Minus the normality of a tile (Golan and El-Yaniv 2018, section 4.2). The stage `score`.

    Log-likelihoods are in units of their mean weight, so that scores are as large whatever was fitted.
    """

    def __init__(self, alpha: Tensor, *, is_simple: bool) -> None:
        self.weights, self.is_simple = (alpha - 1) / (alpha - 1).abs().sum(1).mean().clamp_min(LEAST), is_simple

    def __call__(
        self, x: Tensor, x_hat: Tensor | None, z: Latent
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 1 1"]]:
        """The map is the score: a transformation is of the whole tile."""
        p = cast(Tensor, z)
        if self.is_simple:
            score = -p.diagonal(dim1=1, dim2=2).mean(1)
        else:
            score = -(self.weights * (p + LEAST).log()).sum(2).mean(1)
        return score, score[:, None, None]


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """No pinned backbone is needed."""
    return ()


def networks(config: Config, *, pretrained: bool) -> Networks:
    """The untrained classifier, and the distributions of its outputs, which are fitted."""
    count = count_of(config)
    classifier = WideResNet(depth=config.depth, widen=config.widen, classes=count)
    return {"classifier": classifier, "outputs": Outputs(count)}


def count_of(config: Config) -> int:
    """How many transformations there are.

    >>> count_of(Config(kind="deep_geo")), count_of(Config(kind="deep_geo", transformations=("translation",)))
    (72, 9)
    """
    sizes: dict[Kind, int] = {"flip": 2, "translation": 9, "rotation": 4}
    count = 1
    for kind in config.transformations:
        count *= sizes[kind]
    return count


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """What the classifier takes each transformation for, no picture, how likely that is of a normal tile."""
    return assemble(
        networks,
        mapping=lambda placed: TransformedOutputs(config, placed["classifier"]),
        reconstruct=no_picture,
        score=lambda placed: DirichletScore(
            placed["outputs"].get_buffer("alpha"), is_simple=config.score == "softmax"
        ),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages,
    )  # fmt: skip


class Trainee:
    """Cross-entropy of the transformation that was done, then the distributions of the outputs on normal tiles."""

    phases: tuple[str, ...] = ("classifier", "distributions")

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        outputs = networks["outputs"]
        if not isinstance(outputs, Outputs):
            raise TypeError(f"outputs: expected Outputs, found {type(outputs).__name__}")
        self.config, self.networks, self.average = config, networks, average
        self.classifier, self.outputs = networks["classifier"], outputs
        self.parameters = list(self.classifier.parameters())
        self.optimizers: dict[str, Optimizer] = {
            "adam": Adam(
                self.parameters, lr=config.learning_rate, weight_decay=WEIGHT_DECAY,
                fused=self.parameters[0].is_cuda or None,
            )
        }  # fmt: skip
        self.counts: dict[str, int] = {}
        self.every = TransformedOutputs(config, self.classifier)
        self.sources = pixel_sources(config, outputs.alpha.device)

    def phase(self, progress: float) -> str:
        """The distributions for the last `fit_fraction` of the training."""
        return self.phases[progress >= 1 - self.config.fit_fraction]

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration that the classifier learns by; in the second phase it does not."""
        return "learning_rate" if self.phase(progress) == "classifier" else ""

    def prepare(self, x: Tensor) -> None:
        """Nothing is needed before the first step."""

    def step(self, x: Tensor, progress: float) -> Losses:
        """Learn from tiles x [N, 3, h, w] in [-1, 1], or count outputs of some of them."""
        if self.phase(progress) == "classifier":
            return self.classifier_step(x)
        return self.distributions_step(x)

    def classifier_step(self, x: Tensor) -> dict[str, Tensor]:
        """One step of Adam on a transformation a tile, drawn at random."""
        done = torch.randint(len(self.sources), (len(x),), device=x.device)
        self.classifier.train()
        logits = self.classifier(transformed(x, self.sources[done]))
        loss = F.cross_entropy(logits.float(), done)
        self.optimizers["adam"].zero_grad()
        loss.backward()
        self.average([p.grad for p in self.parameters if p.grad is not None])
        self.optimizers["adam"].step()
        return {"cross_entropy": loss.detach(), "accuracy": (logits.argmax(1) == done).float().mean()}

    @torch.no_grad()
    def distributions_step(self, x: Tensor) -> dict[str, Tensor]:
        """Count the outputs for all transformations of every `FIT_SHARE`th tile, the classifier as it will score."""
        self.classifier.eval()
        p = self.every(x[: max(2, len(x) // FIT_SHARE)])
        sums = self.outputs.sums_of(p)
        self.average(sums)
        self.outputs.add(sums)
        return {"probability": p.diagonal(dim1=1, dim2=2).mean()}

    def finish(self) -> None:
        """Fit the distributions to all outputs that were counted, which are the same on every worker."""
        self.outputs.fit()

    def reconstruct(self, x: Tensor) -> Tensor | None:
        """There is no picture."""
        return None
