"""Scoring in bfloat16, where the processor is fast at it and the scores stay the same to a stated tolerance.

The stage `score` is lowered, in which a perceptual detector spends most of its time in a frozen network. The stages
before it make what is compared, and their errors would count twice (measured: DECISIONS.md). A detector without a
picture may have its network in the stage `map`: that is lowered too, if the scores stay the same then; but not where it
is a search, which ends elsewhere.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from uadray.detectors.detector import Detector
from uadray.detectors.latents import Latent, LatentMap
from uadray.detectors.pixels import Pixels
from uadray.detectors.scores import Score

Precision = Literal["float32", "bfloat16"]

TOLERANCE = 0.01
"""Scores in bfloat16 may differ from those in float32 by this share of the mean score of the tiles of the check."""

CHECK_TILES = 8


def lower_precision(detector: Detector, *, tile_px: int) -> bool:
    """Let a detector score in bfloat16 if that is worth it and allowed; returns whether it does so now.

    A processor without instructions for bfloat16 would be slower, and keeps float32. So does a detector whose scores of
    the tiles of the check differ by more than `TOLERANCE`.
    """
    if not is_fast(detector.device):
        return False
    tiles = check_tiles(tile_px)
    made = _made(detector, tiles)
    expected = _scores(detector, made)
    score, mapping = detector.score, detector.mapping
    detector.score = LoweredScore(score)
    if not _is_close(_scores(detector, made), expected):
        detector.score = score
    if not detector.has_picture and not detector.searches:
        detector.mapping = LoweredMap(mapping)
        if not _is_close(_scores(detector, _made(detector, tiles)), expected):
            detector.mapping = mapping
    return detector.score is not score or detector.mapping is not mapping


Made = list[tuple[Tensor, Tensor | None, Latent]]
"""Batches of tiles, their pictures and their latents."""


@torch.inference_mode()
def _made(detector: Detector, tiles: Pixels) -> Made:
    """What the stage `score` is given: made once, since a search takes as long as all the rest together."""
    made: Made = []
    for x in detector.inputs(tiles):
        z = detector.mapping(x)
        made.append((x, detector.reconstruct(z), z))
    return made


@torch.inference_mode()
def _scores(detector: Detector, made: Made) -> npt.NDArray[np.float64]:
    return torch.cat([detector.score(*batch)[0] for batch in made]).cpu().double().numpy()


def _is_close(found: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> bool:
    """A score that is not finite is not."""
    return bool(np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).mean())


def is_fast(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def check_tiles(tile_px: int) -> Pixels:
    """[8, tile, tile, 3] Tiles that are always the same: smooth blots in the colours of haematoxylin and eosin."""
    coarse = torch.rand(CHECK_TILES, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    blots = F.interpolate(coarse, size=(tile_px, tile_px), mode="bicubic", align_corners=False).clamp(0, 1)
    pale, dark = (torch.tensor(colour).view(1, 3, 1, 1) for colour in ((235.0, 190.0, 220.0), (90.0, 50.0, 140.0)))
    return (pale + (dark - pale) * blots).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


class LoweredScore:
    """A stage `score` that multiplies in bfloat16 (torch's autocast) and gives float32."""

    def __init__(self, score: Score) -> None:
        self.full = score

    def __call__(self, x: Tensor, x_hat: Tensor | None, z: Latent) -> tuple[Tensor, Tensor]:
        """Scores and residual maps."""
        with torch.autocast(x.device.type, torch.bfloat16):
            score, residual = self.full(x, x_hat, z)
        return score.float(), residual.float()


class LoweredMap:
    """A stage `map` that multiplies in bfloat16 and gives float32."""

    def __init__(self, mapping: LatentMap) -> None:
        self.full = mapping

    def __call__(self, x: Tensor) -> Latent:
        """The latent of each image."""
        with torch.autocast(x.device.type, torch.bfloat16):
            return full_precision(self.full(x))


def full_precision(z: Latent) -> Latent:
    """A latent whose floating tensors are float32 (float64 stays)."""
    if isinstance(z, tuple):
        return tuple(full_precision(part) for part in z)
    return z.float() if z.dtype is torch.bfloat16 else z
