"""Images as codes of a VQ-VAE, and codes as images."""

from collections.abc import Mapping
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from uadray.detectors.latents import Latent
from uadray.networks.codebook import Codebook


class CodeMap:
    """The stage `map`: tiles -> codes [n, h, w]."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        self.encoder, self.codebook = networks["encoder"], networks["codebook"]

    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Latent:
        """The codes of tiles in [-1, 1]."""
        codes: Tensor = self.codebook(self.encoder(x))
        return codes


class Decoding:
    """The stage `reconstruct`: codes [n, h, w] -> x_hat."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        self.decoder, self.codebook = networks["decoder"], cast(Codebook, networks["codebook"])

    def __call__(self, z: Latent) -> Tensor:
        """Images, nominally in [-1, 1]."""
        x_hat: Tensor = self.decoder(self.codebook.lookup(cast(Tensor, z)))
        return x_hat
