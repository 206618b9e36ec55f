"""Opening slides: real files of all formats, and what is no slide."""

from pathlib import Path

import numpy as np
import pytest
from slides.coloured_slides import openslide_pixels

from uadray.errors import SlideError
from uadray.slides.opening import open_slide
from uadray.slides.thumbnail import thumbnail
from uadray.slides.tile_reading import read_tile


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="no such file") as caught:
        open_slide(tmp_path / "none.svs", slide_id="s")
    assert caught.value.reason == "missing"


@pytest.mark.parametrize("content", [b"", b"not a slide", b"II*\0" + b"\0" * 60])
def test_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.svs"
    path.write_bytes(content)
    with pytest.raises(SlideError, match=r"OpenSlide cannot open bad\.svs") as caught:
        open_slide(path, slide_id="s", mpp=0.5)
    assert caught.value.reason == "unreadable"


def test_a_folder_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(SlideError) as caught:
        open_slide(tmp_path, slide_id="s", mpp=0.5)
    assert caught.value.reason == "unreadable"


WSI = {
    "CMU-1-Small-Region.svs": "opens",
    "boxes.tiff": "no_mpp",
    "boxes_0.dcm": "opens",
    "boxes_1.dcm": "opens",
    "broken.svs": "unreadable",
    "jpeg.dicom": "opens",
    "small.svs": "opens",
    "tcga-cr-7395-01a-01-ts1.svs": "no_mpp",
    "unopenable.tiff": "unreadable",
    "unreadable.svs": "unreadable",
}


def _look(path: Path) -> None:
    """Open, overview, one tile: what a screening does first."""
    with open_slide(path, slide_id=path.name) as slide:
        image, mpp = thumbnail(slide)
        tile = read_tile(slide, x_level0_px=0, y_level0_px=0, mpp=slide.mpp * 1.3, tile_px=48)
    assert image.ndim == 3
    assert mpp > 0
    assert tile.shape == (48, 48, 3)


@pytest.mark.parametrize("name", [name for name, state in WSI.items() if state == "opens"])
def test_real_files_open(data_dir: Path, name: str) -> None:
    _look(data_dir / "wsi" / name)


@pytest.mark.parametrize("name", [name for name, state in WSI.items() if state != "opens"])
def test_real_files_end_in_a_named_state(data_dir: Path, name: str) -> None:
    with pytest.raises(SlideError) as caught:
        _look(data_dir / "wsi" / name)
    assert (caught.value.slide_id, caught.value.reason) == (name, WSI[name])


def test_every_real_file_is_in_the_table(data_dir: Path) -> None:
    assert {path.name for path in (data_dir / "wsi").iterdir()} == set(WSI)


def test_real_slide_without_mpp_opens_with_the_manifests(data_dir: Path) -> None:
    """JPEG 2000, two levels, from TCGA; its centre, which is tissue."""
    path = data_dir / "wsi" / "tcga-cr-7395-01a-01-ts1.svs"
    with open_slide(path, slide_id="t", mpp=0.25) as slide:
        x, y = (side // 2 for side in slide.level_sizes_px[0])
        tile = read_tile(slide, x_level0_px=x, y_level0_px=y, mpp=0.25, tile_px=64)
        assert len(slide.level_sizes_px) == len(slide.downsamples) == 2
    assert tile.std() > 5
    np.testing.assert_array_equal(tile, openslide_pixels(path, 0, x, y, 64))
