"""Tiles in memory as a source of a training, and their pixels at another size."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt

from uadray.training.crops import Crop, Crops, Job, Pixels
from uadray.training.passes import ENTRY_TILES, Ints


@dataclass(frozen=True)
class ArraySource:
    """Tiles [n, h, w, 3] in memory, shuffled anew for every pass, as `training.file_source.FileSource` does."""

    tiles: Pixels
    seed: int

    @property
    def entry_tiles(self) -> Ints:
        """[n_entries], tiles of each."""
        return np.array([len(part) for part in self._split(np.arange(len(self.tiles)))], np.int64)

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Unknown: these tiles do not say from which slide they are."""
        return np.empty(0)

    def jobs(self, pass_number: int, entries: Ints) -> list[Job]:
        """One job for all."""
        split = self._split(np.random.default_rng([self.seed, pass_number, 1]).permutation(len(self.tiles)))
        numbers = np.concatenate([split[int(entry)] for entry in entries])
        return [Job(f"{len(numbers)} tiles of pass {pass_number}", len(numbers), partial(self._read, numbers))]

    def _split(self, numbers: Ints) -> list[Ints]:
        return np.array_split(numbers, -(-len(self.tiles) // ENTRY_TILES))

    def _read(self, numbers: Ints, crop: Crop) -> Iterator[Crops]:
        yield Crops(-1, numbers.tolist(), [crop(self.tiles[number]) for number in numbers], 0)


def resampled(tiles: Pixels, *, side_px: int) -> Pixels:
    """RGB tiles [n, h, h, 3] brought to another side: by areas where it is smaller, else bicubic."""
    if side_px == tiles.shape[1]:
        return tiles
    how = cv2.INTER_AREA if side_px < tiles.shape[1] else cv2.INTER_CUBIC
    return np.stack([np.asarray(cv2.resize(tile, (side_px, side_px), interpolation=how), np.uint8) for tile in tiles])
