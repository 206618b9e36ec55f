"""The same files from S3, where opening reads by ranges."""

from pathlib import Path

import numpy as np
import pytest
from seaweed import SeaweedServer
from slides.case_files import (
    HALF_UM,
    MPP,
    OTHER,
    SLIDE,
    level_pixels,
    ome,
    open_path,
    pyramid_with_gaps,
    shrunk,
    with_levels_below,
    write_tiff,
)
from slides.tiff_files import build, page

from uadray.errors import SlideError
from uadray.slides.opening import open_slide
from uadray.storage import objects


@pytest.mark.s3
def test_the_same_from_s3(tmp_path: Path, s3: SeaweedServer) -> None:
    levels_below = [with_levels_below("LZW", **ome(f'Name="a"|{HALF_UM}'))]
    unmarked = [page(SLIDE, **MPP), page(shrunk(SLIDE)), page(shrunk(SLIDE, 4))]
    gaps = pyramid_with_gaps("deflate", {3: [0]}, **MPP)
    for name, pages in {"ome": levels_below, "unmarked": unmarked, "gaps": gaps}.items():
        path, uri = write_tiff(tmp_path / f"{name}.tif", pages), f"s3://{s3.bucket}/cases/{name}.tif"
        objects.write_bytes(uri, path.read_bytes())
        with open_path(path) as local, open_slide(uri, slide_id="s") as remote:
            assert (local.mpp, local.level_sizes_px) == (remote.mpp, remote.level_sizes_px)
            assert len(local.level_sizes_px) == 3
            for level in range(3):
                np.testing.assert_array_equal(level_pixels(local, level), level_pixels(remote, level))
    uri = f"s3://{s3.bucket}/cases/two.tif"
    objects.write_bytes(uri, build([page(SLIDE, **MPP), page(OTHER)]))
    with pytest.raises(SlideError, match="not page 2") as caught:
        open_slide(uri, slide_id="s")
    assert caught.value.reason == "several_images"
