"""Tiles that are image files of a folder or zip."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from uadray.tiles.spec import TileSpec
from uadray.tilesets import containers
from uadray.training.crops import Crop, Crops, Job
from uadray.training.lone_tiles import usable
from uadray.training.passes import ENTRY_TILES, Ints


@dataclass(frozen=True)
class FileSource:
    """Images of a folder or zip, shuffled anew for every pass.

    Attributes:
        uri: of the set.
        refs: its tiles.
        spec: only `min_tissue` and `mpp` are used.
        input_px: smaller tiles are left out.
        seed: of the training.
    """

    uri: str
    refs: list[containers.TileRef]
    spec: TileSpec
    input_px: int
    seed: int

    @cached_property
    def entry_tiles(self) -> Ints:
        """[n_entries], tiles of each."""
        return np.array([len(part) for part in np.array_split(np.arange(len(self.refs)), self._n_entries)], np.int64)

    @property
    def _n_entries(self) -> int:
        return -(-len(self.refs) // ENTRY_TILES)

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Unknown: images do not say from which slide they are."""
        return np.empty(0)

    def jobs(self, pass_number: int, entries: Ints) -> list[Job]:
        """One job for all: the set is opened once."""
        order = np.random.default_rng([self.seed, pass_number, 1]).permutation(len(self.refs))
        split = np.array_split(order, self._n_entries)
        numbers = np.concatenate([split[int(e)] for e in entries])
        first = self.refs[numbers[0]].tile_id
        name = f"{self.uri}, {len(numbers)} images of pass {pass_number}, {first} the first"
        return [Job(name, len(numbers), partial(self._read, numbers))]

    def _read(self, numbers: Ints, crop: Crop) -> Iterator[Crops]:
        read = containers.read_tiles(self.uri, [self.refs[i] for i in numbers])
        for number, (_, image, error) in zip(numbers, read, strict=True):
            good = image is not None and usable(image, self.input_px, self.spec)
            crops = [crop(image)] if image is not None and good else []
            yield Crops(-1, [int(number)] if good else [], crops, int(error is not None))
