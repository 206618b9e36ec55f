"""The peers of `bench screen`: a PyTorch DataLoader, a worker a core, that reads each tile by OpenSlide or by cucim.

A first attempt would look like this. Where a tile is not exactly a region of a level, OpenCV resizes the whole pixels
that cover it.
"""

import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from uadray.bench.screen_limit import tissue_tiles
from uadray.bench.stand_in import load_of
from uadray.detectors.bundle import Bundle
from uadray.detectors.detector import BATCH
from uadray.slides.opening import open_slide
from uadray.slides.tile_reading import tile_places
from uadray.tiles.images import Pixels
from uadray.tiles.spec import TileSpec

ReadRegion = Callable[[tuple[int, int], int, tuple[int, int]], Pixels]
"""Corner at level 0, level, width and height in pixels of that level -> RGB."""


def peers() -> tuple[str, ...]:
    """The readers that are installed here."""
    return ("openslide", "cucim") if importlib.util.find_spec("cucim") else ("openslide",)


def opened(peer: str, path: Path) -> ReadRegion:
    """A slide, opened by a peer."""
    if peer == "openslide":
        import openslide

        handle = openslide.OpenSlide(str(path))
        return lambda corner, level, size: np.asarray(handle.read_region(corner, level, size).convert("RGB"))
    from cucim import CuImage

    image = CuImage(str(path))
    return lambda corner, level, size: np.asarray(image.read_region(corner, size, level))[..., :3]


class PeerTiles(Dataset[Any]):
    """Item i is tile i; each worker opens each slide once. The grid comes for nothing.

    Args:
        paths: slides that are all like the first.
        spec: which tiles.
        n_tiles: of all slides together; None: all.
        peer: "openslide" or "cucim".
    """

    def __init__(self, paths: list[Path], spec: TileSpec, *, n_tiles: int | None = None, peer: str) -> None:
        self.paths, self.tile_px, self.peer = paths, spec.tile_px, peer
        tiles = tissue_tiles(paths[0], spec)
        with open_slide(paths[0], slide_id="bench") as slide:
            corners = (tiles[name].to_numpy() for name in ("x_level0_px", "y_level0_px"))
            places = tile_places(slide, *corners, mpp=spec.mpp, tile_px=spec.tile_px, max_coarser=spec.max_coarser)
            step_x, step_y = places.steps
        self.level, self.size = places.level, (round(self.tile_px * step_x), round(self.tile_px * step_y))
        self.corners = list(zip(tiles["x_level0_px"].to_pylist(), tiles["y_level0_px"].to_pylist(), strict=True))
        self.n_tiles = len(tiles) * len(paths) if n_tiles is None else n_tiles
        self._handles: dict[Path, ReadRegion] = {}

    def __len__(self) -> int:
        return self.n_tiles

    def __getitem__(self, index: int) -> Any:
        slide, place = divmod(index, len(self.corners))
        path = self.paths[slide % len(self.paths)]
        if path not in self._handles:
            cv2.setNumThreads(1)
            self._handles[path] = opened(self.peer, path)
        region = self._handles[path](self.corners[place], self.level, self.size)
        side = self.tile_px
        if self.size != (side, side):
            way = cv2.INTER_AREA if min(self.size) > side else cv2.INTER_LINEAR
            region = cv2.resize(region, (side, side), interpolation=way)
        return torch.from_numpy(np.array(region))


def score_by_data_loader(
    case: str, bundle_uri: str, bundle: Bundle, path: Path, counts: tuple[int, ...], peer: str
) -> list[tuple[int, float, float]]:
    """Score so many tiles, for each count; returns tiles, seconds and CPU seconds, with the start of the workers."""
    torch.set_num_threads(os.cpu_count() or 1)
    detector = load_of(case)(bundle_uri, bundle)
    runs = []
    for n in counts:
        dataset = PeerTiles([path], bundle.tiles, n_tiles=n, peer=peer)
        began, cpu_s, n_scored = time.perf_counter(), _cpu_s(), 0
        for batch in DataLoader(dataset, batch_size=BATCH, num_workers=os.cpu_count() or 1):
            n_scored += len(detector(batch.numpy()).score)
        runs.append((n_scored, time.perf_counter() - began, _cpu_s() - cpu_s))
    return runs


def _cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])
