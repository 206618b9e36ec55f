"""Pixels as classes of stain instead of intensities: a reconstruction that is judged by what lies where.

A squared error is large where a tile is dark or rich in contrast, whether or not it is unusual. Here the colours of
normal tissue are put into a few classes by k-means of their amounts of haematoxylin and eosin, the decoder says of each
pixel which class it has, and log p(x | z) is minus the cross entropy (van den Oord et al. 2016,
https://arxiv.org/abs/1601.06759, section 3.3, has grey levels as classes).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.detectors.likelihood.lloyd import lloyd, nearest_centre, start_of, sums_by_class
from uadray.detectors.trainee import Average
from uadray.detectors.views.scanners import STAINS, optical_density

MOST_PIXELS = 65_536
"""Of a worker's tiles that classes are fitted to, evenly spaced: a second or so of Lloyd's algorithm."""

_BY_COLOUR = torch.linalg.inv(torch.tensor(STAINS, dtype=torch.float64))[:, :2].tolist()


class CategoricalObservation(nn.Module):
    """log p(class of x | z) of each pixel, by the decoder's logits.

    Attributes of the state:
        centres: [k, 2], amounts of haematoxylin and eosin.
        colours: [k, 3], the mean colour of the pixels of each class, in [-1, 1].
    """

    centres: Tensor
    colours: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.zeros(classes, 2))
        self.register_buffer("colours", torch.zeros(classes, 3))

    @torch.no_grad()
    def fit(self, x: Float[Tensor, "n 3 h w"], *, average: Average) -> None:
        """Find the classes of the pixels of all workers' images, and their colours."""
        colours = x.float().movedim(1, -1).reshape(-1, 3)
        spacing = max(1, len(colours) // MOST_PIXELS)
        rows, colours = stain_amounts(x).movedim(1, -1).reshape(-1, 2)[::spacing], colours[::spacing]
        centres = lloyd(rows, start_of(rows, len(self.centres), average=average), average=average)
        sums, counts = sums_by_class(colours, nearest_centre(rows.double(), centres), len(centres))
        average([sums, counts])
        self.centres.copy_(centres)
        self.colours.copy_(sums / counts[:, None].clamp_min(torch.finfo(counts.dtype).tiny))

    def classes(self, x: Float[Tensor, "n 3 h w"]) -> Int[Tensor, "n h w"]:
        """The class whose centre is nearest, of each pixel."""
        nearest: Tensor = nearest_centre(stain_amounts(x).movedim(1, -1), self.centres)
        return nearest

    def forward(self, x: Float[Tensor, "n 3 h w"], logits: Float[Tensor, "n k h w"]) -> Float[Tensor, "n h w"]:
        """Log probability of each pixel's class, in nats: its sum over pixels is log p(classes of x | z)."""
        log_probabilities = F.log_softmax(logits.to(x.dtype), 1)
        found: Tensor = log_probabilities.gather(1, self.classes(x)[:, None]).squeeze(1)
        return found

    def residual(self, x: Float[Tensor, "n 3 h w"], logits: Float[Tensor, "n k h w"]) -> Float[Tensor, "n h w"]:
        """Cross entropy at each pixel."""
        return -self.forward(x, logits)

    def picture(self, logits: Float[Tensor, "n k h w"]) -> Float[Tensor, "n 3 h w"]:
        """The expected colour of each pixel, in [-1, 1]."""
        expected: Tensor = torch.einsum("nkhw,kc->nchw", logits.softmax(1).to(self.colours.dtype), self.colours)
        return expected


@torch.no_grad()
def stain_amounts(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 2 h w"]:
    """Amounts of haematoxylin and eosin, in natural optical density; what is neither is left out.

    Ruifrok and Johnston 2001: the densities of the three colours are a sum of the stains', each times its amount.
    """
    with torch.autocast(x.device.type, enabled=False):
        density = optical_density(x)
        stains = [sum(density[:, c] * _BY_COLOUR[c][s] for c in range(3)) for s in range(2)]
        return torch.stack([torch.as_tensor(stain) for stain in stains], 1)
