"""The exponential average of a generator's weights, which draws better pictures than the generator itself.

Karras et al. 2018 keep 0.999 of the average at each step of 16 pictures or less; Karras et al. 2020 say it as a
half-life in pictures, which does not change with the batch.
"""

import torch
from torch import nn


@torch.no_grad()
def follow(average: nn.Module, source: nn.Module, *, decay: float) -> None:
    """Move each weight of the average towards the source's: decay * average + (1 - decay) * source. Buffers are copied.

    Args:
        average: changed in place; of the same layers as the source, on the same device.
        source: what it follows.
        decay: see `decay_of`; 0 copies.
    """
    torch._foreach_lerp_(list(average.parameters()), list(source.parameters()), 1 - decay)
    buffers = list(average.buffers())
    if buffers:
        torch._foreach_copy_(buffers, list(source.buffers()))


def decay_of(images: float, *, half_life_images: float) -> float:
    """What is kept of an average after so many images, of which half is kept after `half_life_images`; 0 for none.

    >>> decay_of(64, half_life_images=64)
    0.5
    """
    return 0.5 ** (images / half_life_images) if half_life_images > 0 else 0.0


def follow_shown(average: nn.Module, source: nn.Module, counts: dict[str, int], *, half_life_images: float) -> None:
    """Move the average by the images that were shown since it was moved last, by all workers.

    Args:
        average: see `follow`.
        source: see `follow`.
        counts: of the training; `images_shown` is read, `averaged_at_images` is kept.
        half_life_images: see `decay_of`.
    """
    shown = counts.get("images_shown", 0)
    follow(average, source, decay=decay_of(shown - counts["averaged_at_images"], half_life_images=half_life_images))
    counts["averaged_at_images"] = shown
