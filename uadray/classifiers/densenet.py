"""How a DenseNet is trained to tell classes of tiles apart. https://arxiv.org/abs/1608.06993 (Huang et al. 2017).

It is the virtual pathologist that is asked about a generator's tiles: trained on real tiles alone, it has to take a
synthetic tile for one of the class that its generator was trained on. The network is in `uadray.networks.densenet`.

Different from the paper: AdamW with a rate that falls along half a cosine instead of SGD in steps, for trainings of
some thousand steps; batches have equally many tiles of each class, whatever there are, so that neither class is
preferred.
"""

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from uadray import config as configuration
from uadray.networks.densenet import BLOCKS, GROWTH, NAME, STEM, DenseNet, least_px, load_published
from uadray.networks.outline import Networks, outline

MOST_CLASSES = 16

Label = Annotated[str, Field(min_length=1, max_length=80)]


class Config(configuration.Config):
    """A DenseNet, by default DenseNet-121.

    Attributes:
        input_px: side of the crops.
        classes: labels of the tiles, in the order in which they lie in a batch; the first is the normal one.
        growth: maps that each layer adds.
        blocks: layers of each block.
        stem: maps before the first block.
        pretrained: begin with the weights of ImageNet, which are of DenseNet-121 alone.
        learning_rate: of AdamW, at the first step; it falls to nothing along half a cosine.
        weight_decay: of AdamW.
    """

    kind: Literal["densenet121"]
    input_px: int = Field(default=64, ge=8, le=1024)
    classes: tuple[Label, ...] = Field(default=("normal", "tumor"), min_length=2, max_length=MOST_CLASSES)
    growth: int = Field(default=GROWTH, ge=2, le=64)
    blocks: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(default=BLOCKS, min_length=1, max_length=4)
    stem: int = Field(default=STEM, ge=2, le=256)
    pretrained: bool = False
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    weight_decay: float = Field(default=1e-4, ge=0, le=10)

    @model_validator(mode="after")
    def _classes_differ(self) -> "Config":
        if len({name.casefold() for name in self.classes}) < len(self.classes):
            raise ValueError(f"classes {', '.join(self.classes)}: name each once")
        return self

    @model_validator(mode="after")
    def _network_can_be_built(self) -> "Config":
        if self.input_px < (least := least_px(len(self.blocks))):
            raise ValueError(f"input_px {self.input_px}: {len(self.blocks)} blocks need {least} px at the least")
        if self.pretrained and (self.growth, self.blocks, self.stem) != (GROWTH, BLOCKS, STEM):
            raise ValueError(f"pretrained weights are of growth {GROWTH}, blocks {list(BLOCKS)} and stem {STEM} alone")
        return self


def networks(config: Config, *, pretrained: bool) -> Networks:
    """The network; with the weights of ImageNet where it asks for them and `pretrained`.

    Raises:
        WorkError: the pinned weights cannot be had.
    """
    network = DenseNet(growth=config.growth, blocks=config.blocks, stem=config.stem, classes=len(config.classes))
    if pretrained and config.pretrained:
        load_published(network)
    return {"network": network}


def outline_of(config: Config) -> Networks:
    """The network as shapes alone, see `uadray.networks.outline`.

    Raises:
        InputError: it is too large.
    """
    return outline(lambda: networks(config, pretrained=False), name=f"classifier {config.kind}")


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """The published DenseNet-121, where it is asked for."""
    return (NAME,) if config.pretrained else ()


class Trainee:
    """Cross-entropy of the classes of a batch. Members: see `uadray.detectors.trainee`."""

    phases: tuple[str, ...] = ("classes",)

    def __init__(self, config: Config, networks: Networks, *, average: Callable[[Iterable[Tensor]], None]) -> None:
        self.config, self.networks, self.average = config, networks, average
        self.network = networks["network"]
        self.optimizers: dict[str, Optimizer] = {
            "network": AdamW(self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        }
        self.counts: dict[str, int] = {}

    def phase(self, progress: float) -> str:
        """There is one."""
        return "classes"

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration that it learns by."""
        return "learning_rate"

    def prepare(self, x: Tensor) -> None:
        """Nothing to prepare."""

    def step(self, x: Tensor, progress: float) -> dict[str, Tensor]:
        """One step on x [N, 3, h, w], equally many tiles of each class, in the order of `classes`."""
        labels = labels_of(len(x), len(self.config.classes), device=x.device)
        logits = self.network(x).float()
        loss = F.cross_entropy(logits, labels)
        self._update(loss, progress)
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        return {"cross_entropy": loss.detach(), "accuracy": accuracy}

    def finish(self) -> None:
        """Nothing is fitted after the last step."""

    def reconstruct(self, x: Tensor) -> None:
        """It makes no pictures."""
        return None

    def _update(self, loss: Tensor, progress: float) -> None:
        """A step of AdamW; the running moments of the batch norms are averaged over workers with the gradients."""
        optimizer = self.optimizers["network"]
        for group in optimizer.param_groups:
            group["lr"] = self.config.learning_rate * (1 + math.cos(math.pi * progress)) / 2
        optimizer.zero_grad()
        loss.backward()
        moments = [b for name, b in self.network.named_buffers() if name.endswith(("running_mean", "running_var"))]
        self.average([*(p.grad for p in self.network.parameters() if p.grad is not None), *moments])
        optimizer.step()


def labels_of(n: int, classes: int, *, device: str | torch.device = "cpu") -> Tensor:
    """[n] Numbers of the classes of a batch that has n / classes tiles of each, one class after the other.

    Raises:
        ValueError: n is no multiple of `classes`.

    >>> labels_of(6, 2).tolist()
    [0, 0, 0, 1, 1, 1]
    """
    if n % classes:
        raise ValueError(f"{n} tiles are not equally many of {classes} classes")
    return torch.arange(classes, device=device).repeat_interleave(n // classes)
