"""Image -> latent. Each class is the `map` stage of a detector."""

from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor, nn

Latent = Tensor | tuple[Any, ...]
"""What a detector maps tiles to: a tensor, or a tuple of latents; of any shapes, each with N first."""


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
