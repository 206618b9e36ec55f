"""Small slides for the tests of training: tissue everywhere, no two tiles alike."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from uadray.phantoms.pyramid import write_pyramid
from uadray.slides.manifest import SlideRow
from uadray.tiles.spec import TileSpec
from uadray.training.crops import crop_blocks
from uadray.training.passes import Passes, plan_passes
from uadray.training.slide_source import SlideSource

SPEC = TileSpec(mpp=1.0, tile_px=32, quality=None)
N_SLIDES = 8
PER_SLIDE = 120


def write_slide(path: Path, seed: int, *, size_px: int = 512) -> SlideRow:
    """Tissue everywhere, no two tiles alike: 256 tiles of 32 px."""
    small = np.random.default_rng(seed).integers(0, 80, (size_px // 8, size_px // 8, 3), dtype=np.uint8)
    image = np.array([210, 110, 180], np.uint8) - cv2.resize(small, (size_px, size_px))
    write_pyramid(path, image, mpp=1.0, tile_px=128)
    return SlideRow(path.stem, str(path))


def planned(source: SlideSource, *, passes: int, max_tasks: int = 2000, input_px: int = 32) -> Passes:
    """As many passes of a source, of the seed that it was drawn with."""
    n = int(source.entry_tiles.sum())
    return plan_passes(n, seed=7, n_tiles=n * (passes - 1), input_px=input_px, max_tasks=max_tasks)


def read_crops(source: SlideSource, passes: Passes, tasks: range | None = None, **options: Any) -> pa.Table:
    """What the read tasks of a plan give, in one table."""
    found = [
        table
        for task in tasks or range(passes.n_tasks)
        for table in crop_blocks(source, passes, task, input_px=32, **{"stain_augment": 0.0} | options)
    ]
    return pa.concat_tables(found)
