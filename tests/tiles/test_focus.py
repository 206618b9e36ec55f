"""Focus: sharp tiles at any resolution are in focus, blurred ones are not, flat ones are not judged."""

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiles.artefact_images import Image, flagged_shares

from uadray.phantoms.layout import PhantomSpec
from uadray.phantoms.tissue import paint
from uadray.tiles.focus import clearly_sharp, empty, focus
from uadray.tiles.quality import (
    flag_masks,
    judged_pixels,
    pixel_flags,
)
from uadray.tiles.tissue import tissue_mask


@pytest.mark.parametrize(("sigma_px", "blurred"), [(0.0, False), (2.0, True), (5.0, True)])
def test_blur_of_a_thumbnail(phantom: Image, sigma_px: float, blurred: bool) -> None:
    image = cv2.GaussianBlur(phantom, (0, 0), sigma_px) if sigma_px else phantom
    fraction = flagged_shares(image, 4.0)["blur"]
    assert fraction > 0.6 if blurred else fraction == 0


def test_blur_of_one_half_stays_there(phantom: Image) -> None:
    image = phantom.copy()
    image[:, :256] = cv2.GaussianBlur(phantom, (0, 0), 4)[:, :256]
    blur = flag_masks(image, 4.0, tissue_mask(image, 4.0))["blur"]
    assert blur[:, : blur.shape[1] // 2].any()
    assert not blur[:, blur.shape[1] // 2 + 1 :].any()


@pytest.fixture(scope="module")
def tiles(data_dir: Path) -> Image:
    """Real tiles with at least half tissue, of slides that no threshold was chosen on, 0.972 um a pixel."""
    with zipfile.ZipFile(data_dir / "pcam" / "valid.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("normal/"))[::5]
        raw = [np.frombuffer(archive.read(name), np.uint8) for name in names]
    images = [cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB) for data in raw]
    return np.stack([image for image in images if tissue_mask(image, 0.972).mean() >= 0.5])


def _shrunk(images: Image, factor: int) -> Image:
    size = (images.shape[2] // factor, images.shape[1] // factor)
    return np.stack([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images])


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_sharp_tiles_are_in_focus_at_any_resolution(tiles: Image, factor: int) -> None:
    flags = pixel_flags(_shrunk(tiles, factor), 0.972 * factor)
    assert len(tiles) > 150
    assert sum(flag is not None for flag in flags) <= 0.01 * len(flags)


def test_sharp_phantom_tiles_are_in_focus() -> None:
    """0.5 um a pixel: half of the detail is optics; the phantoms are softer than any slide we have."""
    image, _ = paint(PhantomSpec(640, 640, mpp=0.5, seed=5))
    tiles = image.reshape(5, 128, 5, 128, 3).swapaxes(1, 2).reshape(-1, 128, 128, 3)
    tissue = tiles[[tissue_mask(tile, 0.5).mean() >= 0.5 for tile in tiles]]
    assert len(tissue) > 5
    assert pixel_flags(tissue, 0.5) == [None] * len(tissue)


@pytest.mark.parametrize(("sigma_px", "found"), [(2.0, 0.95), (6.0, 0.95)])
@pytest.mark.parametrize("jpeg_quality", [None, 75])
def test_blurred_tiles_are_out_of_focus(tiles: Image, sigma_px: float, found: float, jpeg_quality: int | None) -> None:
    blurred = [cv2.GaussianBlur(tile, (0, 0), sigma_px) for tile in tiles]
    if jpeg_quality is not None:
        encoded = [cv2.imencode(".jpg", tile, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])[1] for tile in blurred]
        blurred = [cv2.imdecode(data, cv2.IMREAD_COLOR) for data in encoded]
    flags = pixel_flags(np.stack(blurred), 0.972)
    assert flags.count("out_of_focus") >= found * len(flags)


@pytest.mark.parametrize("sigma_px", [0.0, 1.0, 1.5, 2.0])
def test_a_strip_is_enough_for_sharp_tiles_and_never_misleads(tiles: Image, sigma_px: float) -> None:
    blurred = np.stack([cv2.GaussianBlur(tile, (0, 0), sigma_px) if sigma_px else tile for tile in tiles])
    clear = clearly_sharp(blurred, 0.972, focus_min=0.4)
    sharpness = focus(blurred, 0.972)
    assert (np.isfinite(sharpness) & (sharpness > 0.5))[clear].all()
    assert clear.mean() > 0.9 if sigma_px == 0 else clear.mean() < 0.5
    assert focus(blurred, 0.972, which=np.array([7, 3])).tolist() == sharpness[[7, 3]].tolist()


def test_strips_measure_what_whole_tiles_do(tiles: Image) -> None:
    """Their median falls with blur as that of whole tiles does; a flat strip says nothing."""
    medians = []
    for sigma_px in (0.5, 1.0, 2.0):
        blurred = np.stack([cv2.GaussianBlur(tile, (0, 0), sigma_px) for tile in tiles])
        flags, sharpness = judged_pixels(blurred, 0.972)
        assert flags == pixel_flags(blurred, 0.972)
        medians.append(np.nanmedian(sharpness))
        assert np.median(focus(blurred, 0.972)) == pytest.approx(medians[-1], rel=0.15)
    assert medians == sorted(medians, reverse=True)
    flags, sharpness = judged_pixels(np.full((2, 64, 64, 3), 240, np.uint8), 1.0)
    assert np.isnan(sharpness).all()
    assert judged_pixels(tiles[:0], 1.0)[1].shape == (0,)


def test_blur_at_half_a_micron_is_judged_in_microns(tiles: Image) -> None:
    """The same tiles with pixels of half the size: sigma 4 px are 2 um."""
    large = np.stack([cv2.resize(tile, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC) for tile in tiles[:60]])
    assert (focus(large, 0.486) > 0.4).mean() > 0.98
    blurred = np.stack([cv2.GaussianBlur(tile, (0, 0), 4) for tile in large])
    assert (focus(blurred, 0.486) < 0.4).mean() > 0.95


def test_focus_falls_with_blur_and_not_with_contrast(tiles: Image) -> None:
    some = tiles[:40]
    values = [np.median(focus(np.stack([cv2.GaussianBlur(t, (0, 0), s) for t in some]), 0.972)) for s in (0.5, 1, 2, 4)]
    assert values == sorted(values, reverse=True)
    pale = (255 - (255 - some.astype(float)) / 3).astype(np.uint8)
    assert np.median(focus(pale, 0.972)) > 0.5 * np.median(focus(some, 0.972))


def test_empty_tiles() -> None:
    rng = np.random.default_rng(0)
    colours = {(243, 243, 245): True, (170, 195, 215): True, (60, 58, 60): True, (225, 150, 190): False}
    images = np.stack([np.clip(np.array(c) + rng.normal(0, 2, (64, 64, 3)), 0, 255).astype(np.uint8) for c in colours])
    assert empty(images).tolist() == list(colours.values())
    assert pixel_flags(images, 1.0) == ["air", "air", "air", None]
    assert np.isinf(focus(images, 1.0)).all()
    assert pixel_flags(images[:0], 1.0) == []
