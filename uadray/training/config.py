"""The configuration of `uadray train`."""

import math

from pydantic import Field, model_validator

from uadray.classifiers.densenet import Config as ClassifierConfig
from uadray.config import Config
from uadray.detectors.building import DetectorConfig
from uadray.errors import InputError
from uadray.generators.catalog import GeneratorConfig
from uadray.tiles.spec import TileSpec

PREPARE_TILES = 256
"""Tiles whose features set the normalisation; its error at 256 x 64 positions is far below the features' deviation."""


LABELS_APART = 10_007
"""Between the seeds of the sources of two labels."""


class TrainConfig(Config):
    """One run of `uadray train`.

    Attributes:
        name: of the bundle, for people.
        detector: which, and how large.
        generator: which, and how large, where a generator alone is trained; there is no detector then.
        classifier: which, and how large, where tiles of several labels are told apart; there is no other one then.
        tiles: how slides are cut and prepared; of a tile set, only `mpp` and the least tissue are used.
        train_label: slides or tiles with this label (or none) are trained on; a classifier names its labels itself.
        train_split: of a slide manifest, only the slides of this split are trained on; None takes all.
        train_min_tissue: tiles with a smaller fraction of tissue are not trained on; `tiles.min_tissue` unless given.
            Less than that shows a detector what lies around the tissue that it will score.
        tiles_per_slide: random tiles a slide and pass, drawn anew for every pass; None for all. Of slides alone: a tile
            set has what `uadray tile` put there.
        epochs: how often a checkpoint is written; an epoch is `steps_per_epoch` steps, whatever the data's size.
        steps_per_epoch: optimizer steps of an epoch.
        batch_size: tiles a step and worker; of a classifier equally many of each label.
        shuffle_tiles: size of the buffer in which a worker mixes the blocks that it gets; each is from many slides.
        workers: Ray Train workers; each trains on its own share of the tiles.
        min_workers: an elastic group: it begins with as many workers as fit, from so many up to `workers`, and is
            started anew from its last checkpoint with more or fewer when nodes come or go. None for a group of
            `workers`. A batch is `batch_size` tiles a worker all the same. What an elastic group learns depends on its
            size, and so on the cluster: it cannot be repeated.
        max_failures: groups that are started again from the last checkpoint, after one that failed.
        validate_every: each so many epochs the checkpoint is validated, and the last one; 0 for never. On Ray beside
            the training; without Ray the training waits.
        validate_tiles: that a validation compares with.
        use_gpu: give each worker a GPU.
        threads: torch threads of a worker on the CPU; None shares the node's cores among the workers.
        stain_augment: each crop's amounts of stain are scaled by 1 -+ this and shifted by -+ this at the most (Tellez
            et al. 2018: 0.05 is light, 0.2 strong); 0 for none.
        hold_tiles: decode every tile of a tile set once, hold all on the device, and cut, turn and stain them there: a
            GPU waits for tiles otherwise. Without Ray alone; tiles of one size.
        bf16: multiply in bfloat16 in the steps where the device is fast at it; elsewhere it changes nothing.
        captured: capture each kind of step as a CUDA graph and launch that: for small networks, whose kernels are over
            before the next is launched. For one process on a GPU, and what names such steps; elsewhere it does nothing.
        stop_on_collapse: end the training of a generator that draws the same of every latent, see
            `uadray.training.collapse`.
        seed: of the networks' start, the latents, and which tiles each pass draws, how it crops them, and in which
            order. One worker on Ray takes the very tiles that a training without Ray takes.
    """

    name: str = Field(min_length=1, max_length=80)
    detector: DetectorConfig | None = None
    generator: GeneratorConfig | None = None
    classifier: ClassifierConfig | None = None
    tiles: TileSpec
    train_label: str = "normal"
    train_split: str | None = None
    train_min_tissue: float | None = Field(default=None, ge=0, le=1)
    tiles_per_slide: int | None = Field(default=None, ge=1)
    epochs: int = Field(default=10, ge=1)
    steps_per_epoch: int = Field(default=100, ge=1)
    batch_size: int = Field(default=32, ge=2)
    shuffle_tiles: int = Field(default=2048, ge=2)
    stain_augment: float = Field(default=0.0, ge=0, lt=1)
    hold_tiles: bool = False
    bf16: bool = False
    captured: bool = False
    workers: int = Field(default=1, ge=1)
    min_workers: int | None = Field(default=None, ge=1)
    max_failures: int = Field(default=2, ge=0, le=1000)
    validate_every: int = Field(default=0, ge=0)
    validate_tiles: int = Field(default=1000, ge=8, le=1_000_000)
    use_gpu: bool = False
    threads: int | None = Field(default=None, ge=1)
    stop_on_collapse: bool = True
    seed: int = 0

    @model_validator(mode="after")
    def _one_is_trained(self) -> "TrainConfig":
        if sum(each is not None for each in (self.detector, self.generator, self.classifier)) != 1:
            raise ValueError("give one to train: either a detector, or a generator, or a classifier")
        return self

    @model_validator(mode="after")
    def _labels_share_a_batch(self) -> "TrainConfig":
        if self.batch_size % len(self.labels):
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of {len(self.labels)}: a batch has equally many tiles of "
                f"each of the classes {', '.join(self.labels)}"
            )
        return self

    @model_validator(mode="after")
    def _group_has_a_size(self) -> "TrainConfig":
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers {self.min_workers} is more than workers {self.workers}")
        return self

    @model_validator(mode="after")
    def _steps_are_enough(self) -> "TrainConfig":
        least, steps = getattr(self.detector, "least_steps", 1), self.epochs * self.steps_per_epoch
        if steps < least:
            raise ValueError(f"{steps} steps (epochs times steps_per_epoch); this detector needs {least} at the least")
        return self

    @model_validator(mode="after")
    def _images_are_enough(self) -> "TrainConfig":
        generator, share = self._trained_generator()
        least = getattr(generator, "growing_images", 0)
        a_step = self.batch_size * (self.min_workers or self.workers)
        images = int(share * self.epochs * self.steps_per_epoch) * a_step
        if least and images < least + a_step:
            raise ValueError(
                f"{images:,} images are shown (epochs x steps_per_epoch x batch_size x workers"
                f"{f' x generator_fraction {share:g}' if share < 1 else ''}), and this generator "
                f"has grown to {self.input_px} px after {least:,}; raise steps_per_epoch to "
                f"{math.ceil((least + a_step) / (share * self.epochs * a_step))}, or lower generator.stage_images and "
                "generator.fade_images"
            )
        return self

    @model_validator(mode="after")
    def _tile_covers_input(self) -> "TrainConfig":
        if self.input_px > self.tiles.tile_px:
            raise ValueError(
                f"{self.section}.input_px {self.input_px} is larger than tiles.tile_px {self.tiles.tile_px}"
            )
        self.tiles.check_mpp(getattr(self.detector, "mpp", None))
        return self

    def _trained_generator(self) -> tuple[object, float]:
        """The configuration of the generator that is trained here, alone or within a detector, and its share of steps.

        None is trained where a detector is given one.
        """
        if self.generator is not None:
            return self.generator, 1.0
        if getattr(self.detector, "generator_bundle", None) is not None:
            return None, 1.0
        return getattr(self.detector, "generator", None), getattr(self.detector, "generator_fraction", 1.0)

    @property
    def section(self) -> str:
        """The part of the configuration that says what is trained: `detector`, `generator` or `classifier`."""
        if self.classifier is not None:
            return "classifier"
        return "detector" if self.generator is None else "generator"

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the tiles that are trained on: a source of tiles each, and its part of a batch in this order."""
        return (self.train_label,) if self.classifier is None else self.classifier.classes

    def of_label(self, number: int) -> "TrainConfig":
        """The run as the source of one of `labels` sees it: its part of a batch, and draws of its own."""
        if len(self.labels) == 1:
            return self
        part = {"batch_size": self.batch_size // len(self.labels), "seed": self.seed + LABELS_APART * number}
        return self.model_copy(update=part)

    @property
    def input_px(self) -> int:
        """Side of the crops that the networks take."""
        return int(getattr(self, self.section).input_px)

    @property
    def trained_tiles(self) -> TileSpec:
        """How the tiles are cut that are trained on: `tiles` with `train_min_tissue`."""
        least = self.tiles.min_tissue if self.train_min_tissue is None else self.train_min_tissue
        return self.tiles.model_copy(update={"min_tissue": least})

    def tiles_taken(self, epochs: int) -> int:
        """Tiles that all workers have taken together after so many epochs, those for the normalisation included."""
        preparing = -(-PREPARE_TILES // self.batch_size)
        return self.workers * self.batch_size * (preparing + epochs * self.steps_per_epoch)


def detector_of(config: TrainConfig) -> DetectorConfig:
    """The detector that is trained.

    Raises:
        InputError: it is something else.
    """
    if config.detector is None:
        raise InputError(f"configuration {config.name}: it trains a {config.section}, not a detector")
    return config.detector
