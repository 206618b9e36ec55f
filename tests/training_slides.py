"""Small slides for the tests of training: tissue everywhere, no two tiles alike."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from uadray.phantoms.pyramid import write_pyramid
from uadray.slides.manifest import SlideRow
from uadray.tiles.spec import TileSpec
from uadray.training.crops import crop_block
from uadray.training.passes import Passes, endless_passes
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


def planned(source: SlideSource, *, input_px: int = 32) -> Passes:
    """The passes of a source, of the seed that it was drawn with."""
    return endless_passes(int(source.entry_tiles.sum()), seed=7, input_px=input_px)


def read_crops(source: SlideSource, *, passes: int, **options: Any) -> pa.Table:
    """What so many passes give, in one table."""
    plan = planned(source)
    found = [
        table
        for block in range(passes * plan.blocks_per_pass)
        for table in crop_block(source, plan, block, input_px=32, **{"stain_augment": 0.0} | options)
    ]
    return pa.concat_tables(found)
