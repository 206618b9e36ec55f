"""Image -> latent. Each class is the `map` stage of a detector."""

from typing import Protocol

from jaxtyping import Float
from torch import Tensor, nn


class Mapping(Protocol):
    """x [N, 3, h, w] in [-1, 1] -> z, of any shape with N first."""

    def __call__(self, x: Tensor) -> Tensor:
        """The latent of each image."""
        ...


class EncoderMapping:
    """One pass through a trained encoder (Schlegl et al. 2019; Tuluptceva et al. 2020)."""

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder = encoder

    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Tensor:
        """[N, latent] or [N, latent, h', w'], as the encoder has it."""
        z: Tensor = self.encoder(x)
        return z
