"""The pixel size: what is believed, and what is refused."""

from pathlib import Path

import pytest
from slides.coloured_slides import coloured_picture

from uadray.errors import SlideError
from uadray.phantoms.pyramid import write_pyramid
from uadray.slides.opening import open_slide
from uadray.slides.pixel_size import level0_mpp, openslide_size


def test_no_mpp_is_refused_and_the_manifest_gives_it(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "s.tif", coloured_picture(64, 64), mpp=None, tile_px=64, downsamples=())
    with pytest.raises(SlideError, match="give them in the manifest's mpp column") as caught:
        open_slide(path, slide_id="s")
    assert caught.value.reason == "no_mpp"
    with open_slide(path, slide_id="s", mpp=0.25) as slide:
        assert slide.mpp == 0.25


def test_the_manifests_mpp_wins(slide_path: Path) -> None:
    with open_slide(slide_path, slide_id="s") as own, open_slide(slide_path, slide_id="s", mpp=0.25) as given:
        assert (own.mpp, given.mpp) == (pytest.approx(0.5), 0.25)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ("0.5", "0.6", "OpenSlide reads it, gives 0.5 x 0.6 um/px, which cannot be: pixels of a scanner are square"),
        ("84.67", "84.67", "gives 84.67 um/px, which cannot be: above 20 um/px .* resolution for print"),
        ("20.1", "20.1", "above 20 um/px"),
        ("0.079", "0.079", "gives 0.079 um/px, which cannot be: no light microscope samples below 0.08 um/px"),
        ("-0.5", "-0.5", "no light microscope"),
        ("nan", "0.5", "gives 'nan' as um/px, which is no number; give the right value in the manifest's mpp column"),
        ("0,25", "0,25", r"gives '0,25' as um/px, which is no number \(a decimal comma\?\)"),
    ],
)
def test_an_mpp_that_cannot_be_is_no_mpp(x: str, y: str, message: str) -> None:
    stated = openslide_size({"openslide.mpp-x": x, "openslide.mpp-y": y})
    with pytest.raises(SlideError, match=message) as caught:
        level0_mpp(stated, given=None, slide_id="s")
    assert caught.value.reason == "no_mpp"
    assert level0_mpp(stated, given=0.25, slide_id="s") == 0.25


@pytest.mark.parametrize("given", [0.05, 84.7])
def test_an_mpp_of_the_manifest_that_cannot_be_is_no_mpp(slide_path: Path, given: float) -> None:
    with pytest.raises(SlideError, match=f"the manifest gives {given} um/px, which cannot be: .*correct it") as caught:
        open_slide(slide_path, slide_id="s", mpp=given)
    assert caught.value.reason == "no_mpp"


def test_nearly_square_pixels_are_averaged() -> None:
    stated = openslide_size({"openslide.mpp-x": "0.2525", "openslide.mpp-y": "0.2527"})
    assert level0_mpp(stated, given=None, slide_id="s") == 0.2526
