"""The picture of a mosaic: tiles, scores and residuals at their places, tumour outlined, colours of a normal mosaic."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_detector_figures import _slide, _tiles

from uadray.bench.detector_data import CutSlide
from uadray.bench.detector_maps import GAP_PX, OUTLINE, mosaic_picture, outlined, pasted, shown_pair, tile_maps
from uadray.bench.detector_pictures import DetectorScore
from uadray.detectors.detector import Detector
from uadray.slides.manifest import SlideRow

pytestmark = pytest.mark.usefixtures("torch_alone")


def darkness(input_px: int) -> DetectorScore:
    """A detector whose residual is how dark a pixel is, and whose score is the mean of that."""
    detector = Detector(
        lambda x: x, lambda z: None, lambda x, x_hat, z: ((1 - x).mean((1, 2, 3)), (1 - x).mean(1)),
        input_px=input_px, device=torch.device("cpu"),
    )  # fmt: skip
    return DetectorScore(detector, 0.972)


def test_the_first_of_each_label() -> None:
    slides = [_slide("a", "normal", [1.0]), _slide("b", "normal", [1.0]), _slide("c", "Tumor", [1.0])]
    assert shown_pair(slides) == (slides[2], slides[0])
    assert shown_pair(slides[:2]) is None


def test_tiles_lie_at_their_places() -> None:
    slide = _slide("a", "normal", [10.0, 200.0])
    picture = pasted(slide, slide.pixels)
    assert picture.shape == (96, 192, 3)
    assert (picture[:, :96] == 10).all()
    assert (picture[:, 96:] == 200).all()


def test_residuals_are_of_the_centre() -> None:
    slide = _slide("a", "normal", [0.0, 255.0])
    maps = tile_maps(darkness(64), slide)
    assert np.isnan(maps[:, :16]).all()
    assert np.isnan(maps[:, :, -16:]).all()
    assert maps[:, 16:-16, 16:-16].mean((1, 2)) == pytest.approx([2, 0])


def test_what_is_rare_on_a_normal_mosaic_is_dark(tmp_path: Path) -> None:
    slide, normal = _slide("t", "tumor", [215.0, 190.0]), _slide("n", "normal", [200.0, 205.0, 210.0, 215.0])
    slide = CutSlide(SlideRow("t", str(tmp_path / "t.tif"), label="tumor"), slide.table, slide.good, slide.pixels)
    picture = mosaic_picture(darkness(96), slide, normal)
    assert picture.shape == (64, 2 * (3 * 96 + GAP_PX) * 2 // 3, 3)
    for begin in (192 + GAP_PX, 2 * (192 + GAP_PX)):
        usual, rare = (picture[26, (begin + x) * 2 // 3].astype(int) for x in (48, 144))
        assert usual.sum() > rare.sum() + 200


def test_tumour_is_outlined(tmp_path: Path) -> None:
    square = "[[10,10],[80,10],[80,80],[10,80],[10,10]]"
    (tmp_path / "t.geojson").write_text(
        '{"type":"FeatureCollection","features":[{"type":"Feature","properties":{},'
        f'"geometry":{{"type":"Polygon","coordinates":[{square}]}}}}]}}'
    )
    plain = _slide("t", "tumor", [200.0])
    slide = CutSlide(SlideRow("t", str(tmp_path / "t.tif"), label="tumor"), plain.table, plain.good, _tiles(200.0))
    picture = outlined(pasted(slide, slide.pixels), slide)
    assert tuple(picture[10, 40]) == OUTLINE
    assert (picture[40, 40] == 200).all()
    assert (slide.pixels == 200).all(), "the tiles are left as they were"
