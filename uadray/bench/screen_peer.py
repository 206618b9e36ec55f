"""The peer of `bench screen`: a PyTorch DataLoader with a worker a core that reads each tile by OpenSlide."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from uadray.bench.screen_limit import tissue_tiles
from uadray.bench.stand_in import LOADS
from uadray.detectors.bundle import Bundle
from uadray.detectors.detector import BATCH
from uadray.slides.opening import open_slide
from uadray.slides.tile_reading import tile_places


class OpenSlideTiles(Dataset[Any]):
    """Item i is tile i, read by OpenSlide; each worker opens each slide once. A first attempt would look like this."""

    def __init__(self, paths: list[Path], level: int, corners: list[tuple[int, int]], tile_px: int) -> None:
        self.paths, self.level, self.corners, self.tile_px = paths, level, corners, tile_px
        self._handles: dict[Path, Any] = {}

    def __len__(self) -> int:
        return len(self.paths) * len(self.corners)

    def __getitem__(self, index: int) -> Any:
        import openslide

        slide, place = divmod(index, len(self.corners))
        path = self.paths[slide]
        if path not in self._handles:
            self._handles[path] = openslide.OpenSlide(str(path))
        region = self._handles[path].read_region(self.corners[place], self.level, (self.tile_px, self.tile_px))
        return torch.from_numpy(np.asarray(region.convert("RGB")).copy())


def score_by_data_loader(
    case: str, bundle_uri: str, bundle: Bundle, path: Path, counts: tuple[int, ...]
) -> list[tuple[int, float]]:
    """Score the tiles of so many slides, for each count; returns tiles and seconds, with the start of the workers."""
    spec = bundle.tiles
    torch.set_num_threads(os.cpu_count() or 1)
    detector = LOADS[case](bundle_uri, bundle)
    tiles = tissue_tiles(path, spec)
    corners = list(zip(tiles["x_level0_px"].to_pylist(), tiles["y_level0_px"].to_pylist(), strict=True))
    with open_slide(path, slide_id="bench") as slide:
        level = tile_places(slide, [0], [0], mpp=spec.mpp, tile_px=spec.tile_px, max_coarser=spec.max_coarser).level
    runs = []
    for n in counts:
        paths = [path.with_name(f"copy{i}.tif") for i in range(n)]
        for copy in paths:
            if not copy.exists():
                copy.hardlink_to(path)
        began, scores = time.perf_counter(), []
        dataset = OpenSlideTiles(paths, level, corners, spec.tile_px)
        for batch in DataLoader(dataset, batch_size=BATCH, num_workers=os.cpu_count() or 1):
            scores.append(detector(batch.numpy()).score)
        runs.append((len(np.concatenate(scores)), time.perf_counter() - began))
    return runs
