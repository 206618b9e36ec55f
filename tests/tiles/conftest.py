"""Slides that several of these tests look at."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from tiles.painted_slides import painted_slide

from uadray.phantoms.layout import PhantomSpec
from uadray.phantoms.tissue import paint
from uadray.slides.opening import open_slide
from uadray.slides.thumbnail import thumbnail
from uadray.tiles.tissue import tissue_mask


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide whose left half is tissue."""
    return painted_slide(tmp_path_factory.mktemp("slides") / "s.tif")


@pytest.fixture(scope="module")
def mosaics(data_dir: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Thumbnails and masks of ten mosaics; even ones of one laboratory's stain, odd ones of the other's."""
    thumbnails = {}
    for name in [f"ncalib_{i:03d}" for i in range(10)]:
        with open_slide(data_dir / "mosaics" / "normal_calib" / f"{name}.tif", slide_id=name) as slide:
            image, mpp = thumbnail(slide)
        thumbnails[name] = (image, tissue_mask(image, mpp))
    return thumbnails


@pytest.fixture(scope="module", params=[0, 1])
def phantom(request: pytest.FixtureRequest) -> np.ndarray:
    """A thumbnail of 2 x 2 mm at 4 um, in each stain."""
    image, _ = paint(PhantomSpec(1024, 1024, mpp=2.0, stain=request.param, seed=11))
    return np.asarray(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)
