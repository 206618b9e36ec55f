"""A slide that names files of somebody else's gets none of their pixels."""

from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest

from uadray.errors import SlideError
from uadray.slides.opening import open_slide

KEY_FILE = """[Virtual Microscope Specimen]
NoLayers=1
NoJpegColumns=1
NoJpegRows=1
ImageFile={image}
MapFile={image}
PhysicalWidth=100000
PhysicalHeight=100000
"""


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A picture of another patient's, outside of the folder that is opened."""
    path = tmp_path / "theirs" / "secret.jpg"
    path.parent.mkdir()
    cv2.imwrite(str(path), np.full((64, 64, 3), 200, np.uint8), [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])
    (tmp_path / "ours").mkdir()
    return path


@pytest.mark.parametrize("name", ["slide.vms", "slide.svs", "slide.tif", "slide"])
def test_a_key_file_leads_nowhere(tmp_path: Path, theirs: Path, name: str) -> None:
    """OpenSlide alone opens it, by whatever name."""
    path = tmp_path / "ours" / name
    path.write_text(KEY_FILE.format(image="../theirs/secret.jpg"))
    with openslide.OpenSlide(str(path)) as slide:  # else this test would prove nothing
        assert slide.dimensions == (64, 64)
    with pytest.raises(SlideError, match=r"names the file '../theirs/secret.jpg'|must end with .vms"):
        open_slide(path, slide_id="a", mpp=1)


def test_a_key_file_that_names_what_lies_beside_it_is_opened(tmp_path: Path, theirs: Path) -> None:
    beside = tmp_path / "ours" / "image.jpg"
    theirs.rename(beside)
    path = tmp_path / "ours" / "slide.vms"
    path.write_text(KEY_FILE.format(image="image.jpg"))
    with open_slide(path, slide_id="a", mpp=1) as slide:
        assert slide.level_sizes_px[0] == (64, 64)


@pytest.mark.parametrize("line", ["INDEXFILE=../../theirs/Index.dat", "FILE_0 = /etc/passwd", "FILE_12=a/../../b"])
def test_an_index_of_mirax_leads_nowhere(tmp_path: Path, line: str) -> None:
    (tmp_path / "slide.mrxs").write_bytes(b"\xff\xd8")
    (tmp_path / "slide").mkdir()
    (tmp_path / "slide" / "Slidedat.ini").write_text(f"[DATAFILE]\r\n{line}\r\nFILE_COUNT=1\r\n")
    with pytest.raises(SlideError, match="expected one beside it"):
        open_slide(tmp_path / "slide.mrxs", slide_id="a", mpp=1)
