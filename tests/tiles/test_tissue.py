"""Tissue masks: phantoms whose truth is known, mosaics of real tiles, and slides of one thing only."""

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from uadray.phantoms.layout import PhantomSpec
from uadray.phantoms.tissue import paint
from uadray.slides.opening import open_slide
from uadray.slides.thumbnail import thumbnail
from uadray.tiles.plan import plan_slide
from uadray.tiles.spec import TileSpec
from uadray.tiles.tissue import _lowest_grey, tissue_mask

GLASS = (244, 243, 245)
PINK = (215, 160, 190)


def _plain(colour: tuple[int, int, int], side_px: int = 128, *, noise: float = 0.0) -> np.ndarray:
    image = np.full((side_px, side_px, 3), colour, np.float64)
    return np.clip(image + np.random.default_rng(0).normal(0, noise, image.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("noise", [0.0, 1.5, 3.0])
def test_all_glass_has_no_tissue(noise: float) -> None:
    assert not tissue_mask(_plain(GLASS, noise=noise), 4.0).any()


@pytest.mark.parametrize("colour", [PINK, (150, 90, 160), (120, 100, 170)])
def test_all_tissue_is_tissue(colour: tuple[int, int, int]) -> None:
    """Otsu alone would cut the noise of the one thing there is in two."""
    assert tissue_mask(_plain(colour, noise=4.0), 4.0).mean() > 0.99


def test_black_fields_and_ink_are_no_tissue() -> None:
    image = _plain(GLASS)
    image[:, :64] = (12, 2, 6)
    assert not tissue_mask(image, 4.0).any()


def test_a_rectangle_is_found_to_the_pixel() -> None:
    image = _plain(GLASS)
    image[30:90, 40:100] = PINK
    mask = tissue_mask(image, 4.0)
    assert mask.dtype == np.bool_
    assert mask.shape == (128, 128)
    expected = np.zeros_like(mask)
    expected[30:90, 40:100] = True
    assert (mask != expected).sum() <= 8, "no more than the corners, which the median rounds"


@pytest.mark.parametrize(("side_px", "kept"), [(11, False), (14, True)])
def test_pieces_below_2500_square_microns_are_dust(side_px: int, kept: bool) -> None:
    """At 4 um a pixel 50 x 50 um are 12.5 x 12.5 pixels."""
    image = _plain(GLASS)
    image[20:100, 10:60] = PINK
    image[50 : 50 + side_px, 90 : 90 + side_px] = PINK
    mask = tissue_mask(image, 4.0)
    assert mask[60, 30]
    assert mask[50 + side_px // 2, 90 + side_px // 2] == kept


def test_size_in_microns_not_in_pixels_decides() -> None:
    """The same picture at 8 um a pixel shows a piece four times as large."""
    image = _plain(GLASS)
    image[50:59, 50:59] = PINK
    assert not tissue_mask(image, 4.0).any()
    assert tissue_mask(image, 8.0).any()


def _stained(height: int, width: int, strength: float) -> np.ndarray:
    """Transmission of tissue with nuclei at 4 um a pixel; of pale tissue all density is less."""
    rng = np.random.default_rng(4)
    density = np.full((height, width, 3), (0.12, 0.55, 0.28)) * rng.normal(1, 0.1, (height, width, 1))
    for x, y in rng.uniform(0, (width, height), (height * width // 40, 2)).astype(int):
        cv2.circle(density, (int(x), int(y)), 1, (0.9, 1.1, 0.45), cv2.FILLED)
    return np.exp(-strength * density)


def _pieces(
    strength: float, *, dark: bool = True, glass: tuple[int, int, int] = GLASS, gap_px: int = 30, side_px: int = 120
) -> np.ndarray:
    """A dark piece on the left, unless left out, and `gap_px` beside it a pale square."""
    image = np.full((300, 440, 3), glass, np.float64)
    if dark:
        image[40:240, 30:210] *= _stained(200, 180, 1.0)
    image[60 : 60 + side_px, 210 + gap_px : 210 + gap_px + side_px] *= _stained(side_px, side_px, strength)
    return image


def _scanned(image: np.ndarray, *, noise: float = 1.5, jpeg_quality: int = 80) -> np.ndarray:
    noisy = np.clip(image + np.random.default_rng(5).normal(0, noise, image.shape), 0, 255).astype(np.uint8)
    data = cv2.imencode(".jpg", noisy[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])[1]
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gap_px": 0},
        {"side_px": 50},
        {"glass": (240, 236, 222)},
        {"glass": (255, 255, 255)},
    ],
    ids=str,
)
@pytest.mark.parametrize("strength", [0.25, 0.35, 0.5])
def test_a_pale_piece_is_found_beside_a_dark_one_as_alone(strength: float, options: dict[str, Any]) -> None:
    side, left = options.get("side_px", 120), 210 + options.get("gap_px", 30)
    place = np.s_[60 : 60 + side, left : left + side]
    alone, beside = (tissue_mask(_scanned(_pieces(strength, dark=dark, **options)), 4.0) for dark in (False, True))
    assert alone[place].mean() > 0.85
    assert beside[place].mean() > 0.85
    assert beside[40:240, 30:210].mean() > 0.95
    beside[place] = beside[40:240, 30:210] = False
    assert beside.mean() < 0.012, "soft edges at the most"


@pytest.mark.parametrize("mpp", [8.0, 15.0])
@pytest.mark.parametrize("noise", [0.5, 3.0])
def test_a_pale_piece_is_found_at_any_resolution_and_noise(mpp: float, noise: float) -> None:
    image = cv2.resize(_pieces(0.4), None, fx=4 / mpp, fy=4 / mpp, interpolation=cv2.INTER_AREA)
    mask = tissue_mask(_scanned(image, noise=noise), mpp)
    truth = np.zeros((300, 440), np.uint8)
    truth[62:178, 242:358] = 1
    assert mask[cv2.resize(truth, mask.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0].mean() > 0.9


def _blot(density: tuple[float, float, float]) -> np.ndarray:
    """A soft spot of 600 um on the glass beside dark tissue."""
    amount = np.zeros((300, 440), np.float32)
    cv2.circle(amount, (330, 150), 75, 1.0, cv2.FILLED)
    return _pieces(0.0) * np.exp(-cv2.GaussianBlur(amount, (0, 0), 8)[..., None] * density)


def _lines(colour: tuple[int, int, int], width_px: int) -> np.ndarray:
    return cv2.rectangle(_pieces(0.0), (225, 15), (430, 285), colour, width_px)


def _dust() -> np.ndarray:
    image = _pieces(0.0)
    for x, y in np.random.default_rng(0).uniform((230, 20), (420, 280), (30, 2)).astype(int):
        cv2.circle(image, (int(x), int(y)), 4, (190, 140, 175), cv2.FILLED)
    return image


def _padded(glass: tuple[int, int, int]) -> np.ndarray:
    image = _pieces(0.0, glass=glass)
    image[:, 350:] = 255
    return image


@pytest.mark.parametrize("jpeg_quality", [35, 90])
@pytest.mark.parametrize(
    "image",
    [
        pytest.param(_blot((0.3, 0.3, 0.3)), id="shadow"),
        pytest.param(_blot((0.12, 0.1, 0.06)), id="bluish shadow"),
        pytest.param(_blot((0.02, 0.04, 0.1)), id="glue"),
        pytest.param(_blot((0.01, 0.04, 0.01)), id="pink haze"),
        pytest.param(_lines((190, 190, 190), 2), id="edge of a cover slip"),
        pytest.param(_lines((215, 195, 215), 8), id="pink edge of a cover slip"),
        pytest.param(_dust(), id="pink dust"),
        pytest.param(_padded((240, 232, 238)), id="pinkish glass and white padding"),
        pytest.param(_padded((240, 234, 215)), id="yellowish glass and white padding"),
        pytest.param(_pieces(0.0) * np.linspace(1, 0.85, 440)[None, :, None], id="uneven light"),
    ],
)
def test_what_is_no_pale_tissue(image: np.ndarray, jpeg_quality: int) -> None:
    mask = tissue_mask(_scanned(image, noise=2.0, jpeg_quality=jpeg_quality), 4.0)
    assert mask[40:240, 30:210].mean() > 0.95
    assert mask[:, 218:].mean() < 0.004


def test_a_pale_piece_of_a_slide(data_dir: Path) -> None:
    """Alone it has 24 tiles, and the dark piece as many."""
    counts = []
    for name in ("alone_45.tif", "beside_45.tif"):
        with open_slide(data_dir / "cases" / "14_pale_tissue" / name, slide_id="s") as slide:
            plan = plan_slide(slide, etag="e", spec=TileSpec(mpp=1.0, tile_px=64))
        counts.append((len(plan.tiles), len(plan.flagged)))
    assert counts == [(24, 0), (48, 0)]


@pytest.mark.parametrize("stain", [0, 1])
def test_phantoms(stain: int) -> None:
    """Truth: what is clearly darker than glass once nuclei and noise are blurred away, with fat cells closed."""
    image, _ = paint(PhantomSpec(768, 768, mpp=1.0, stain=stain, seed=3))
    small = cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    truth = (cv2.GaussianBlur(small, (0, 0), 1).mean(2) < 232).astype(np.uint8)
    truth = cv2.morphologyEx(truth, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)).astype(bool)
    mask = tissue_mask(np.asarray(small), 4.0)
    assert 0.2 < truth.mean() < 0.95
    overlap = (mask & truth).sum() / (mask | truth).sum()
    assert overlap > 0.9


@pytest.mark.parametrize("name", ["ncalib_000", "ncalib_001", "ncalib_007"])
def test_mosaics_of_real_tiles(data_dir: Path, name: str) -> None:
    """Stained tissue is in, the glass around it is out, and fat is out: `tissue_cells` counts it, so area is less."""
    folder = data_dir / "mosaics" / "normal_calib"
    with (folder / "manifest.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["slide_id"] == name)
    with open_slide(folder / row["uri"], slide_id=name) as slide:
        width, height = slide.level_sizes_px[0]
        image, mpp = thumbnail(slide)
    mask = tissue_mask(image, mpp)
    blurred = cv2.GaussianBlur(image, (0, 0), 2).astype(int)
    stained = blurred.mean(2) < 170
    glass = (np.abs(blurred - blurred[2, 2]) <= 2).all(2)
    assert stained.mean() > 0.1
    assert glass.mean() > 0.3
    assert mask[stained].mean() > 0.97
    assert mask[glass].mean() < 0.001
    assert 0.5 < mask.mean() * width * height / 96**2 / int(row["tissue_cells"]) < 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 2)])
def test_tiny_thumbnails(shape: tuple[int, int]) -> None:
    mask = tissue_mask(np.full((*shape, 3), 240, np.uint8), 4.0)
    assert mask.shape == shape
    assert not mask.any()


@pytest.mark.parametrize("shape", [(1100, 1000), (2500, 2300)])
def test_large_thumbnails_agree_with_the_plain_formula(shape: tuple[int, int]) -> None:
    """Masked at half their resolution, labelled at a quarter: against saturation of HSV, Otsu, closing at full size."""
    image, _ = paint(PhantomSpec(512, 512, mpp=4.0, seed=8))
    image = np.tile(image, (5, 5, 1))[: shape[0], : shape[1]]
    image[20:24, 20:24] = PINK  # dust of 16 x 16 um
    hsv = cv2.cvtColor(cv2.medianBlur(image, 3), cv2.COLOR_RGB2HSV)
    otsu, _ = cv2.threshold(hsv[..., 1], 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    plain = ((hsv[..., 1] > np.clip(otsu, 12, 40)) & (hsv[..., 2] > 25)).astype(np.uint8)
    plain = cv2.morphologyEx(plain, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))) > 0
    mask = tissue_mask(image, 4.0)
    assert mask.shape == shape
    assert mask.dtype == np.bool_
    assert (mask & plain).sum() / (mask | plain).sum() > 0.97
    assert not mask[18:26, 18:26].any()


def test_saturation_is_opencvs_own() -> None:
    """The table against HSV, for every pair of largest and smallest channel."""
    high, low = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    pixels = np.stack([high, np.minimum(low, high), np.minimum(low, high)], -1).astype(np.uint8)
    saturation = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)[..., 1]
    for threshold in (12.0, 25.0, 40.0):
        expected = (saturation > threshold) & (pixels[..., 0] > 25)
        assert ((pixels[..., 1] < _lowest_grey(threshold)[pixels[..., 0]]) == expected).all()
