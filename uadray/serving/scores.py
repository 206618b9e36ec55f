"""What is asked of the stages about tiles, and what they answer. Arrays of numpy, which travel between processes."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from uadray.tiles.cells import Cells
from uadray.tiles.images import Pixels

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Wanted:
    """What is wanted of tiles beside their scores.

    Attributes:
        maps: the residual map of every tile.
        pictures: what the detector looked at of every tile, and its reconstruction.
        evidence: pictures of this many tiles, those with the highest scores.
        floor: evidence is of tiles that score more than this.
    """

    maps: bool = False
    pictures: bool = False
    evidence: int = 0
    floor: float = -math.inf


@dataclass(frozen=True)
class TilePictures:
    """Pictures of some tiles.

    Attributes:
        rows: [n] their numbers, in the order of the pictures.
        seen: [n, h, w, 3], what the detector looked at.
        reconstruction: [n, h, w, 3], or None from a detector that makes none.
    """

    rows: npt.NDArray[np.int64]
    seen: Pixels
    reconstruction: Pixels | None


@dataclass(frozen=True)
class Scores:
    """What the last stage says of N tiles.

    Attributes:
        score: [N], higher = more abnormal.
        cells: [N, k, k], see `detectors.detector.Scored`; None from a detector without.
        residual: [N, h, w], or None where maps were not asked for.
        pictures: of all tiles (`Wanted.pictures`), or of the evidence, best first; None where none were asked for.
    """

    score: npt.NDArray[np.float64]
    cells: Cells | None = None
    residual: Floats | None = None
    pictures: TilePictures | None = None
