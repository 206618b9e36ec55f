"""Whether a generator has collapsed: it draws one picture, or a few, whatever the latent.

The test, at the end of each epoch: pictures of `PICTURES` fixed latents, and as many of the newest real tiles, are
averaged down to each side of `SIDES_PX`. At each, the distance of a picture to its nearest other is taken, the median
over the pictures, and divided by that of the real tiles. The largest of these shares is the generator's diversity: the
median is nearly nothing where half of the pictures have a twin, and the largest of all sides is taken so that pictures
of one colour with other details, or the other way round, are not called alike.

An untrained generator draws grey, so the test counts once the generator has been diverse, or after so many images.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from uadray.detectors.trainee import Trainee
from uadray.errors import WorkError
from uadray.generators.pictures import drawn
from uadray.training.config import TrainConfig

PICTURES = 64
"""Of fixed latents, and real tiles beside them."""

SIDES_PX = (4, 8, 16)

LEAST = 0.03
"""Diversity below which a generator has collapsed."""

DIVERSE = 0.3
"""Diversity that a generator must have had for the test to count."""

PATIENCE_IMAGES = 500_000
"""Images after which the test counts for a generator that has never been diverse."""


class CollapsedError(WorkError):
    """A generator draws nearly the same picture of every latent: trying again from a checkpoint would end there too."""


class Newest(Iterator[Tensor]):
    """A stream of batches that remembers its last `PICTURES` tiles."""

    def __init__(self, stream: Iterator[Tensor]) -> None:
        self._stream = stream
        self._batches: deque[Tensor] = deque()

    def __next__(self) -> Tensor:
        batch = next(self._stream)
        self._batches.append(batch)
        while sum(map(len, self._batches)) - len(self._batches[0]) >= PICTURES:
            self._batches.popleft()
        return batch

    def tiles(self) -> Tensor:
        """[n, 3, h, w], `PICTURES` at the most."""
        return torch.cat(list(self._batches))[-PICTURES:]


def diversity_of(config: TrainConfig, trainee: Trainee, real: Float[Tensor, "n 3 h w"]) -> float:
    """The diversity of the generator in training beside real tiles; its networks are left in evaluation mode."""
    if config.generator is None:
        raise ValueError("diversity: only a generator has one")
    parts = drawn(config.generator, trainee.networks, len(real), seed=0, batch=16, device=real.device)
    small = [averaged(part, SIDES_PX[-1]) for part in parts]  # full pictures of all latents would take gigabytes
    return diversity(torch.cat(small), averaged(real, SIDES_PX[-1]))


def averaged(x: Float[Tensor, "n 3 h w"], side: int) -> Float[Tensor, "n 3 s s"]:
    """Pictures averaged down to `side`; smaller ones stay."""
    return F.adaptive_avg_pool2d(x.float(), side) if x.shape[-1] > side else x.float()


def diversity(pictures: Float[Tensor, "n 3 h w"], real: Float[Tensor, "n 3 h w"]) -> float:
    """How far pictures are from their nearest others, as a share of how far real tiles are; 0 where all are alike."""
    shares = [
        to_nearest(averaged(pictures, side)) / max(to_nearest(averaged(real, side)), 1e-6)
        for side in SIDES_PX
        if side <= pictures.shape[-1]
    ]
    return max(shares)


def to_nearest(x: Float[Tensor, "n 3 h w"]) -> float:
    """Median over pictures of the distance to the nearest other."""
    flat = x.flatten(1)
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(float("inf"))
    return float(distances.amin(dim=1).median())


def has_collapsed(now: float, before: Sequence[float], *, images: int) -> bool:
    """Whether a diversity is a collapse, after those of earlier epochs.

    >>> has_collapsed(0.01, [0.02, 0.4], images=9000), has_collapsed(0.01, [0.02], images=9000)
    (True, False)
    >>> has_collapsed(0.01, [], images=PATIENCE_IMAGES), has_collapsed(0.1, [0.9], images=9000)
    (True, False)
    """
    return now < LEAST and (max(before, default=0.0) >= DIVERSE or images >= PATIENCE_IMAGES)


def collapse(config: TrainConfig, trainee: Trainee, line: dict[str, Any]) -> CollapsedError:
    """What to say of a collapse at the epoch of `line`."""
    epoch = int(line["epoch"])
    name = trainee.learning_rate((epoch + 1) / config.epochs)
    value = getattr(getattr(config, config.section), name) if name else 0.0
    lower = f"lower {config.section}.{name} (now {value:g}) or change the seed, and " if name else ""
    last = f"the checkpoint after epoch {epoch - 1} is the last good one and is kept" if epoch else "no checkpoint"
    return CollapsedError(
        f"the generator collapsed in epoch {epoch} (step {line['step']}): pictures of {PICTURES} latents differ from "
        f"their nearest by {line.get('diversity', 0.0):.1%} of what real tiles do; {last}; {lower}train into another "
        "--out, or go on from that checkpoint all the same with --resume --set stop_on_collapse=false"
    )
