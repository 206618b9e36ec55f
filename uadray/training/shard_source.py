"""Tiles of a Parquet tile set, by row groups."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from uadray.tiles.spec import TileSpec
from uadray.tilesets import containers, shards
from uadray.training.crops import Crop, Crops, Job
from uadray.training.lone_tiles import usable
from uadray.training.passes import Ints


@dataclass(frozen=True)
class ShardSource:
    """Row groups of a Parquet tile set; an entry is a range of rows of one.

    Attributes:
        runs: the rows of each entry.
        slides: [n_entries], number of the slide of each; -1 where the set does not say.
        entry_tiles: [n_entries], tiles of each that are taken.
        spec: only `min_tissue` and `mpp` are used.
        input_px: smaller tiles are left out.
        labels: tiles with one of these are taken; None for all.
    """

    runs: list[shards.RowRange]
    slides: Ints
    entry_tiles: Ints
    spec: TileSpec
    input_px: int
    labels: tuple[str | None, ...] | None

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """[n_slides], each slide's share of a pass."""
        if (self.slides < 0).any():
            return np.empty(0)
        return np.asarray(np.bincount(self.slides, weights=self.entry_tiles) / self.entry_tiles.sum())

    def jobs(self, pass_number: int, entries: Ints) -> list[Job]:
        """One job an entry; every pass reads the same."""
        return [Job(self.runs[e].uri, int(self.entry_tiles[e]), partial(self._read, int(e))) for e in entries]

    def _read(self, entry: int, crop: Crop) -> Iterator[Crops]:
        rows = self.runs[entry]
        for row, values in enumerate(shards.read_range(rows)):
            tissue = values["tissue_fraction"]
            if self.labels is not None and values["label"] not in self.labels:
                continue
            if tissue is not None and tissue < self.spec.min_tissue:
                continue
            image = containers.decoded(values["image"] or b"")
            good = image is not None and usable(image, self.input_px, self.spec if tissue is None else None)
            crops = [crop(image)] if image is not None and good else []
            yield Crops(int(self.slides[entry]), [rows.first_tile + row] if good else [], crops, int(image is None))
