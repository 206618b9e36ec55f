"""Whether a generator copies tiles: its samples beside the real tiles nearest to them, in features and in pixels."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from uadray.evaluation.manifolds import nearest
from uadray.tiles.images import Pixels

PIXELS_PX = 16
"""Side that pictures are compared at pixel by pixel: what is a copy is one at that size too."""

TURNS = 8
"""Of a picture: four, and their mirror images. Tissue has no up, and tiles are trained on in all of them."""

TINY = 1e-9
"""Stands for the distance between tiles that are the same."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """The real tiles nearest to samples.

    Attributes:
        samples: [n], samples in the order of `ratios`, the most suspicious first.
        tiles: [n], the real tile nearest to each.
        neighbours: [n], the real tile that is nearest to that tile.
        ratios: [n], distance from sample to tile over that from tile to neighbour: below 1 the sample is nearer to the
            tile than any real tile is.
    """

    samples: npt.NDArray[np.int64]
    tiles: npt.NDArray[np.int64]
    neighbours: npt.NDArray[np.int64]
    ratios: npt.NDArray[np.float64]

    @property
    def share(self) -> float:
        """Share of samples that are nearer to a real tile than that tile's nearest one.

        One less the share of authentic samples (Alaa et al. 2022, https://arxiv.org/abs/2102.08921, section 3.3).
        """
        return float((self.ratios < 1).mean())


def nearest_in_features(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> Nearest:
    """By features."""
    return _nearest_of([real], [fake])


def nearest_in_pixels(real: Pixels, fake: Pixels, *, device: str = "cpu") -> Nearest:
    """By the pixels of pictures [n, h, w, 3] and [m, h, w, 3] at 16 px, each in whichever turn is nearest."""
    views = [
        [torch.from_numpy(turned(small, turn).reshape(len(small), -1)).to(device).float() for turn in range(TURNS)]
        for small in (reduced(real, PIXELS_PX), reduced(fake, PIXELS_PX))
    ]
    return _nearest_of(*views)


def _nearest_of(real: list[Tensor], fake: list[Tensor]) -> Nearest:
    """Of pictures [n, d] and [m, d] in one view or several; the first view of real ones is searched."""
    tiles, distances = _in_any_view(fake, real[0], None)
    seen, places = tiles.unique(return_inverse=True)
    others, apart = _in_any_view([view[seen] for view in real], real[0], seen)
    ratios = (distances / apart[places].clamp(min=TINY)).cpu().numpy()
    order = np.argsort(ratios, kind="stable")
    neighbours = others[places].cpu().numpy()
    return Nearest(order, tiles.cpu().numpy()[order], neighbours[order], ratios[order])


def _in_any_view(views: list[Tensor], of: Tensor, leaving_out: Tensor | None) -> tuple[Tensor, Tensor]:
    """The nearest row of `of` to each picture in its nearest view, and the distance."""
    rows, distances = zip(*(nearest(view, of, leaving_out=leaving_out) for view in views), strict=True)
    best = torch.stack(distances).min(dim=0)
    return torch.stack(rows).gather(0, best.indices[None])[0], best.values


def reduced(pictures: Pixels, side: int) -> Pixels:
    """Pictures [n, h, w, 3] at `side` px or as they are where smaller: means over areas."""
    if pictures.shape[1] <= side:
        return pictures
    return np.stack([cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA) for picture in pictures])


def turned(pictures: Pixels, turn: int) -> Pixels:
    """Pictures [n, s, s, 3] in one of eight turns; 0 leaves them."""
    mirrored = pictures[:, :, ::-1] if turn >= 4 else pictures
    return np.ascontiguousarray(np.rot90(mirrored, turn % 4, axes=(1, 2)))
