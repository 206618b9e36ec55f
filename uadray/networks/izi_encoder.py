"""f-AnoGAN's encoder. https://doi.org/10.1016/j.media.2019.01.010 .

Schlegl et al. 2019, "f-AnoGAN: Fast unsupervised anomaly detection with generative adversarial networks", section 2.2.

As in the paper: the critic's architecture with a latent vector for output. The generator's latents are standard normal,
so the output is linear; the paper bounds it by tanh, which could not reach half of such a latent's mass.
"""

from jaxtyping import Float
from torch import Tensor, nn

from uadray.networks.wgan_gp import Trunk


class IziEncoder(nn.Module):
    """Image to latent vector, to be trained image -> z -> image against frozen generator and critic."""

    def __init__(self, *, width: int, input_px: int, latent_dim: int) -> None:
        super().__init__()
        self.trunk = Trunk(width=width, input_px=input_px)
        self.to_latent = nn.Linear(self.trunk.features, latent_dim)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n latent"]:
        """X in [-1, 1]."""
        z: Tensor = self.to_latent(self.trunk(x).flatten(1))
        return z
