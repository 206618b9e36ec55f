"""Image -> latent. Each class is the `map` stage of a detector, or is about what one gives."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

KEPT = 16
"""Latents of a batch that are kept for pictures: those of so many tiles with the highest scores."""

Latent = Tensor | tuple[Any, ...]
"""What a detector maps tiles to: a tensor, or a tuple of latents; of any shapes, each with N first."""


@runtime_checkable
class LatentMap(Protocol):
    """x [N, 3, h, w] in [-1, 1] -> z."""

    def __call__(self, x: Tensor) -> Latent:
        """The latent of each image."""
        ...


class EncoderMap:
    """One pass through a trained encoder (Schlegl et al. 2019; Tuluptceva et al. 2020)."""

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder = encoder

    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Latent:
        """[N, latent] or [N, latent, h', w'], as the encoder has it."""
        z: Latent = self.encoder(x)
        return z


class KeptLatents:
    """Of a call of a detector the latents of the tiles that may be shown, some of each batch."""

    def __init__(self) -> None:
        self._kept: dict[int, Latent] = {}
        self._n_tiles = 0

    def add(self, score: Tensor, z: Latent) -> None:
        """Keep those of the next batch: scores [n] and their latents."""
        for row in score.topk(min(KEPT, len(score))).indices.tolist():
            self._kept[self._n_tiles + row] = row_of(z, row)
        self._n_tiles += len(score)

    def of(self, rows: Sequence[int]) -> list[Latent | None]:
        """Of these tiles the latents, None where one was not kept."""
        return [self._kept.get(row) for row in rows]


def row_of(z: Latent, row: int) -> Latent:
    """The latent of one tile, as a batch of its own memory."""
    if isinstance(z, tuple):
        return tuple(row_of(part, row) for part in z)
    return z[row : row + 1].clone()


def as_batch(latents: Sequence[Latent]) -> Latent:
    """Latents of single tiles as those of a batch."""
    tensors = [z for z in latents if isinstance(z, Tensor)]
    return torch.cat(tensors) if tensors else tuple(as_batch(column) for column in zip(*latents, strict=True))
