"""Flags: practically none on normal slides and tiles, most of every artefact that is put there on purpose."""

import csv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from uadray.phantoms.slides import PhantomSpec, paint
from uadray.slides.opening import open_slide
from uadray.slides.thumbnail import thumbnail
from uadray.tiles.artefacts import _is_band, air_mask, density, fold_mask
from uadray.tiles.focus import empty, focus
from uadray.tiles.grid import grid
from uadray.tiles.plan import plan_slide
from uadray.tiles.quality import (
    FLAGS,
    Flag,
    QualityConfig,
    SlideQuality,
    assess,
    pixel_flags,
    slide_quality,
    tile_flags,
)
from uadray.tiles.spec import TileSpec
from uadray.tiles.tissue import tissue_mask

Image = np.ndarray
Artefact = Callable[[Image], tuple[Image, np.ndarray]]

INKS = {
    "blue": (30, 60, 170), "light blue": (60, 120, 210), "navy": (25, 30, 90), "turquoise": (20, 150, 160),
    "green": (20, 130, 70), "dark green": (15, 70, 45), "red": (205, 25, 40), "dark red": (150, 20, 40),
    "black": (25, 25, 28),
}  # fmt: skip


@pytest.fixture(scope="module", params=[0, 1])
def phantom(request: pytest.FixtureRequest) -> Image:
    """A thumbnail of 2 x 2 mm at 4 um, in each stain."""
    image, _ = paint(PhantomSpec(1024, 1024, mpp=2.0, stain=request.param, seed=11))
    return np.asarray(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)


def _line(image: Image, width_um: float) -> np.ndarray:
    """A slightly bent stroke over the whole picture at 4 um a pixel."""
    height, width = image.shape[:2]
    x = np.linspace(0, width - 1, 40)
    y = height * (0.45 + 0.1 * x / width + 0.03 * np.sin(x / 40))
    mask = np.zeros((height, width), np.uint8)
    cv2.polylines(mask, [np.stack([x, y], 1).round().astype(np.int32)], False, 1, round(width_um / 4))
    return mask.astype(bool)


def _inked(colour: tuple[int, int, int], opacity: float) -> Artefact:
    """Light passes the ink and the tissue: transmissions multiply. Felt leaves a stroke uneven."""

    def draw(image: Image) -> tuple[Image, np.ndarray]:
        mask = _line(image, 500)
        soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.5)
        uneven = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 0.9, mask.shape), (0, 0), 6)
        amount = (soft * opacity * (1 + uneven))[..., None]
        return np.clip(image * (np.array(colour) / 245) ** amount, 0, 255).astype(np.uint8), mask

    return draw


def _folded(image: Image, width_um: float) -> tuple[Image, np.ndarray]:
    """Two layers of tissue: the picture times a shifted copy of itself."""
    mask = _line(image, width_um)
    double = image.astype(float) * np.roll(image, (9, 14), (0, 1)) / 245
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.8)[..., None]
    return (image * (1 - soft) + double * soft).clip(0, 255).astype(np.uint8), mask & tissue_mask(image, 4.0)


def _bubbled(image: Image, diameter_um: float) -> tuple[Image, np.ndarray]:
    mask, rim = np.zeros((2, *image.shape[:2]), np.uint8)
    centre, axes = (image.shape[1] // 2, image.shape[0] // 2), (round(diameter_um / 8), round(diameter_um / 9))
    cv2.ellipse(mask, centre, axes, 30, 0, 360, 1, cv2.FILLED)
    cv2.ellipse(rim, centre, axes, 30, 0, 360, 1, 8)
    soft = cv2.GaussianBlur(rim.astype(np.float32), (0, 0), 1)[..., None] * 0.75
    return (image * (1 - soft) + np.array([60, 60, 62]) * soft).astype(np.uint8), mask.astype(bool)


def _found(image: Image, truth: np.ndarray, flag: Flag) -> tuple[float, float]:
    """The share of the artefact under its flag, and of the other tissue under it."""
    tissue = tissue_mask(image, 4.0)
    mask = slide_quality(image, 4.0, tissue).masks[flag]
    mask = cv2.resize(mask.astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
    near = cv2.dilate(truth.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    return float(mask[truth].mean()), float((mask & ~near & tissue).sum() / tissue.sum())


@pytest.mark.parametrize("opacity", [0.7, 1.0])
@pytest.mark.parametrize("colour", INKS)
def test_pen(phantom: Image, colour: str, opacity: float) -> None:
    found, beyond = _found(*_inked(INKS[colour], opacity)(phantom), "pen")
    assert found > 0.8
    assert beyond < 0.005


def test_thin_seams_of_ink_are_no_pen(phantom: Image) -> None:
    image = phantom.copy()
    image[_line(image, 50)] = INKS["green"]
    assert slide_quality(image, 4.0, tissue_mask(image, 4.0)).fractions["pen"] == 0


@pytest.mark.parametrize("width_um", [40, 80, 120])
def test_fold(phantom: Image, width_um: float) -> None:
    """Folds are the hardest: some half of one in uniform tissue is what the rule is held to."""
    found, beyond = _found(*_folded(phantom, width_um), "fold")
    assert found > 0.4
    assert beyond < 0.01


def test_a_band_of_another_colour_is_no_fold() -> None:
    """An epithelium: twice the density, but bluer."""
    rose, violet = np.array([220, 160, 190]), np.array([130, 100, 200])
    image = np.full((400, 400, 3), 245, np.uint8)
    image[40:360, 40:360] = rose
    double = image.copy()
    image[190:210, 60:340], double[190:210, 60:340] = violet, rose.astype(int) ** 2 // 245
    tissue = tissue_mask(image, 4.0)
    options = {"ratio": 1.5, "max_width_um": 250.0, "min_length_um": 300.0}
    assert fold_mask(density(double), tissue, 4.0, **options)[195:205, 70:330].mean() > 0.9
    assert not fold_mask(density(image), tissue, 4.0, **options).any()


@pytest.mark.parametrize("diameter_um", [500, 1000])
def test_bubble(phantom: Image, diameter_um: float) -> None:
    found, beyond = _found(*_bubbled(phantom, diameter_um), "air")
    assert found > 0.9
    assert beyond < 0.005


def test_an_open_or_coloured_ring_is_no_bubble() -> None:
    glass = np.full((200, 200, 3), 240, np.uint8)
    for colour, end, closed in (((70, 70, 70), 360, True), ((70, 70, 70), 300, False), ((200, 60, 140), 360, False)):
        image = cv2.ellipse(glass.copy(), (100, 100), (50, 45), 0, 0, end, colour, 4)
        assert air_mask(density(image), 8.0, min_um=300).any() == closed


def _ring(colour: int, radii_px: tuple[int, int], width_px: int, *, centre: tuple[int, int] = (150, 150)) -> Image:
    return cv2.ellipse(np.full((300, 300, 3), 240, np.uint8), centre, radii_px, 20, 0, 360, (colour,) * 3, width_px)


def _box(colour: int, inset_px: int, width_px: int) -> Image:
    corners = (inset_px, inset_px), (299 - inset_px, 299 - inset_px)
    return cv2.rectangle(np.full((300, 300, 3), 240, np.uint8), *corners, (colour,) * 3, width_px)


def _tilted(image: Image) -> Image:
    turn = cv2.getRotationMatrix2D((150, 150), 25, 0.7)
    return np.asarray(cv2.warpAffine(image, turn, (300, 300), borderValue=(240, 240, 240)), np.uint8)


def _filled(image: Image) -> Image:
    """A round piece of tissue with a grey border."""
    image[(image[..., 0] < 100).cumsum(1) * (image[..., 0] < 100)[:, ::-1].cumsum(1)[:, ::-1] > 0] = (200, 90, 150)
    return cv2.ellipse(image, (150, 150), (60, 50), 20, 0, 360, (70,) * 3, 4)


@pytest.mark.parametrize(
    ("image", "is_bubble"),
    [
        pytest.param(_ring(70, (60, 50), 4), True, id="bubble"),
        pytest.param(_ring(20, (25, 22), 3), True, id="small black bubble"),
        pytest.param(_ring(120, (130, 120), 6), True, id="large grey bubble"),
        pytest.param(_ring(70, (60, 50), 14), False, id="wide ring"),
        pytest.param(_ring(70, (60, 50), 40), False, id="wider ring"),
        pytest.param(_ring(70, (60, 50), 4, centre=(52, 150)), False, id="at the edge"),
        pytest.param(_box(0, 0, 3), False, id="frame at the edge"),
        pytest.param(_box(0, 30, 3), False, id="frame"),
        pytest.param(_box(130, 60, 5), False, id="grey cover slip"),
        pytest.param(_ring(70, (145, 145), 3)[4:297, 4:297], False, id="ring that fills the slide"),
        pytest.param(_tilted(_box(90, 30, 4)), False, id="tilted cover slip"),
        pytest.param(_filled(_ring(70, (60, 50), 4)), False, id="tissue with a grey border"),
    ],
)
def test_which_closed_dark_line_is_a_bubble(image: Image, is_bubble: bool) -> None:
    air = air_mask(density(image), 8.0, min_um=300)
    assert air.any() == is_bubble
    assert air[len(air) // 2, len(air) // 2] == is_bubble


def test_a_bubble_is_at_most_five_millimetres() -> None:
    assert air_mask(density(_ring(70, (130, 120), 4)), 16.0, min_um=300).any()
    assert not air_mask(density(_ring(70, (130, 120), 4)), 24.0, min_um=300).any()


def test_a_rim_on_glass_around_most_of_the_tissue_is_a_frame() -> None:
    tissue = np.zeros((300, 300), np.bool_)
    tissue[130:170, 130:170] = True
    options = {"min_um": 300, "tissue": tissue}
    assert not air_mask(density(_ring(70, (60, 50), 4)), 8.0, **options).any()
    tissue[20:60, 20:70] = True
    assert air_mask(density(_ring(70, (60, 50), 4)), 8.0, **options).any(), "the larger part lies elsewhere"
    assert air_mask(density(_ring(70, (60, 50), 4)), 8.0, min_um=300, tissue=~tissue).any(), "tissue at the rim"


def test_a_ragged_patch_is_no_band() -> None:
    """For its gaps it is nowhere wide; a fold with gaps is a band all the same."""
    ragged = np.random.default_rng(0).random((60, 60)) < 0.8
    options = {"max_width_um": 250.0, "min_length_um": 300.0}
    assert not _is_band(ragged, 8.0, **options)
    assert _is_band(ragged[:12], 8.0, **options)


def test_two_bubbles_that_touch_and_what_lies_between(phantom: Image) -> None:
    image = phantom.copy()
    for x in (170, 290):
        image = cv2.circle(image, (x, 250), 60, (80, 80, 82), 8)
    image = cv2.circle(image, (230, 250), 190, (80, 80, 82), 30)
    air = slide_quality(image, 4.0, tissue_mask(image, 4.0)).masks["air"]
    assert air[125, 85]
    assert air[125, 145]
    assert not air[60, 115]


def _fates(image: Image) -> dict[tuple[int, int], Flag | None]:
    """The flag of each tissue tile of 64 um, for a slide of 1 um a pixel and this thumbnail at 4 um."""
    size = (4 * image.shape[1], 4 * image.shape[0])
    tissue, spec = tissue_mask(image, 4.0), TileSpec(mpp=1.0, tile_px=64)
    tiles = grid("s", size, 1.0, tissue, spec)
    x, y = tiles["x_level0_px"].to_numpy(), tiles["y_level0_px"].to_numpy()
    flags = tile_flags(slide_quality(image, 4.0, tissue), x, y, side_level0_px=64, size_level0_px=size)
    return dict(zip(zip(x.tolist(), y.tolist(), strict=True), flags, strict=True))


def _on_glass(phantom: Image) -> Image:
    image = np.full((400, 400, 3), 242, np.uint8)
    image[100:340, 80:320] = phantom[:240, :240]
    return image


SURROUNDINGS: dict[str, Artefact] = {
    **{f"surround of {value}": lambda image, value=value: _cropped(image, value) for value in (0, 30, 90, 150, 200)},
    **{
        f"frame of {width} px, {inset} px inside": lambda image, width=width, inset=inset: cv2.rectangle(
            image.copy(), (inset,) * 2, (399 - inset,) * 2, (0, 0, 0), width
        )
        for width in (1, 5, 12, 40)
        for inset in (0, 2, 25)
    },
    "round field": lambda image: _within(image, cv2.circle(np.zeros((400, 400), np.uint8), (200, 215), 195, 1, -1)),
    "round frame": lambda image: cv2.circle(image.copy(), (200, 215), 180, (20, 20, 20), 5),
    "ragged field": lambda image: _within(
        image,
        cv2.fillPoly(
            np.zeros((400, 400), np.uint8), [np.array([[5, 50], [200, 5], [390, 90], [350, 395], [20, 380]])], 1
        ),
    ),
    "black up to the tissue": lambda image: _cropped(image, 0, np.s_[100:340, 80:320]),
}


def _cropped(image: Image, value: int, place: Any = np.s_[30:370, 30:370]) -> Image:
    out = np.full_like(image, value)
    out[place] = image[place]
    return out


def _within(image: Image, field: np.ndarray) -> Image:
    return np.where(field[..., None] > 0, image, 0).astype(np.uint8)


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_what_surrounds_a_slide_flags_no_tissue(phantom: Image, name: str) -> None:
    white = _on_glass(phantom)
    expected = _fates(white)
    assert len(expected) > 100
    assert set(expected.values()) == {None}
    assert _fates(SURROUNDINGS[name](white)) == expected


def _rings(kind: str, width_px: int) -> np.ndarray:
    mask = np.zeros((512, 512), np.uint8)
    circles = {
        "closed": [(256, 256, 150, 360)],
        "open": [(256, 256, 150, 300)],
        "double": [(256, 256, 200, 360), (256, 256, 100, 360)],
        "several": [(140, 140, 90, 360), (370, 140, 90, 360), (256, 370, 90, 360)],
        "at the edge": [(20, 256, 150, 360)],
    }
    for x, y, radius, end in circles.get(kind, []):
        cv2.ellipse(mask, (x, y), (radius, round(0.9 * radius)), 0, 0, end, 1, width_px)
    if kind == "square":
        cv2.rectangle(mask, (110, 110), (400, 400), 1, width_px)
    return mask.astype(np.bool_)


@pytest.mark.parametrize("kind", ["closed", "open", "double", "several", "at the edge", "square"])
@pytest.mark.parametrize(
    ("width_um", "colour"),
    [(120, "black"), (120, "grey"), (200, "black"), (200, "green"), (300, "black"), (300, "red")],
)
def test_a_ring_of_pen_leaves_what_it_marks(phantom: Image, kind: str, width_um: int, colour: str) -> None:
    """Tiles that ink covers less than a tenth of are as without it; ink of 200 um and more is flagged."""
    marked = _lesion(phantom)
    ring = _rings(kind, round(width_um / 4))
    soft = cv2.GaussianBlur(ring.astype(np.float32), (0, 0), 1)[..., None]
    image = (marked * (1 - soft) + np.array((INKS | {"grey": (110, 110, 112)})[colour]) * soft).astype(np.uint8)
    before, after = _fates(marked), _fates(image)
    grown = cv2.dilate(ring.astype(np.uint8), np.ones((5, 5), np.uint8))
    covered = {place: grown[place[1] // 4 :, place[0] // 4 :][:16, :16].mean() for place in before}
    clear = {place: flag for place, flag in before.items() if covered[place] < 0.1}
    changed = [place for place, flag in clear.items() if after.get(place, "lost") != flag]
    assert len(clear) > 50
    assert len(changed) <= 0.03 * len(clear)
    if width_um >= 200:  # the thinnest stroke there is
        assert all(after.get(place, "no tissue") for place, share in covered.items() if share > 0.7)


def _lesion(phantom: Image) -> Image:
    image = phantom.copy()
    for x, y in np.random.default_rng(3).normal(256, 40, (900, 2)).astype(int):
        cv2.circle(image, (int(x), int(y)), 3, (90, 60, 150), cv2.FILLED)
    return image


def test_what_a_stroke_leaves_over_is_no_fold() -> None:
    """A dark area is no band; between two strokes what is left of it would be."""
    image = np.full((300, 300, 3), (220, 160, 190), np.uint8)
    image[100:200, 40:260] = (200, 105, 150)
    ink = np.zeros((300, 300), np.bool_)
    ink[100:138], ink[162:200] = True, True
    options = {"ratio": 1.5, "max_width_um": 250.0, "min_length_um": 300.0}
    assert fold_mask(density(image), ~ink, 4.0, **options).any()
    assert not fold_mask(density(image), ~ink, 4.0, ink=ink, **options).any()


def test_surrounds_and_frames_of_slides(data_dir: Path) -> None:
    plans = {}
    for name in ("white.tif", "black.tif", "thin_frame_20um.tif"):
        with open_slide(data_dir / "cases" / "03_black_surround" / name, slide_id="s") as slide:
            plans[name] = plan_slide(slide, etag="e", spec=TileSpec(mpp=1.0, tile_px=64))
    expected = set(plans["white.tif"].tiles["tile_id"].to_pylist())
    for plan in plans.values():
        found = set(plan.tiles["tile_id"].to_pylist())
        assert len(found) == 36
        assert found == expected


def test_a_ring_of_pen_on_a_slide(data_dir: Path) -> None:
    """Eight by eight tiles in its middle are read as without it, and the ring itself is pen."""
    spec, plans = TileSpec(mpp=1.0, tile_px=64), []
    for name in ("none.tif", "black.tif"):
        with open_slide(data_dir / "cases" / "20_pen_ring" / name, slide_id="s") as slide:
            plans.append(plan_slide(slide, etag="e", spec=spec))
    inside = {f"s/x{x}_y{y}_64px_1mpp" for x in range(768, 1280, 64) for y in range(768, 1280, 64)}
    assert all(inside <= set(plan.tiles["tile_id"].to_pylist()) for plan in plans)
    assert set(plans[0].flags) == set()
    assert set(plans[1].flags) == {"pen"}


@pytest.mark.parametrize(("sigma_px", "blurred"), [(0.0, False), (2.0, True), (5.0, True)])
def test_blur_of_a_thumbnail(phantom: Image, sigma_px: float, blurred: bool) -> None:
    image = cv2.GaussianBlur(phantom, (0, 0), sigma_px) if sigma_px else phantom
    fraction = slide_quality(image, 4.0, tissue_mask(image, 4.0)).fractions["blur"]
    assert fraction > 0.6 if blurred else fraction == 0


def test_blur_of_one_half_stays_there(phantom: Image) -> None:
    image = phantom.copy()
    image[:, :256] = cv2.GaussianBlur(phantom, (0, 0), 4)[:, :256]
    blur = slide_quality(image, 4.0, tissue_mask(image, 4.0)).masks["blur"]
    assert blur[:, : blur.shape[1] // 2].any()
    assert not blur[:, blur.shape[1] // 2 + 1 :].any()


def test_glass_and_tiny_thumbnails_have_no_flags() -> None:
    for shape in ((1, 1), (1, 40), (3, 2), (200, 300)):
        image = np.full((*shape, 3), 242, np.uint8)
        quality = slide_quality(image, 4.0, tissue_mask(image, 4.0))
        assert set(quality.fractions.values()) == {0.0}
        assert not any(mask.any() for mask in quality.masks.values())


def _thumbnails(folder: Path, count: int) -> Iterator[tuple[str, Image, float]]:
    with (folder / "manifest.csv").open(newline="") as file:
        for row in list(csv.DictReader(file))[:count]:
            with open_slide(folder / row["uri"], slide_id=row["slide_id"]) as slide:
                yield row["slide_id"], *thumbnail(slide)


def test_normal_slides_are_left_alone(data_dir: Path, phantom: Image) -> None:
    """Less than 1 % of the tissue, on mosaics that no threshold was chosen on, a real slide and phantoms."""
    slides = [(image, mpp) for _, image, mpp in _thumbnails(data_dir / "mosaics" / "normal_calib", 8)]
    with open_slide(data_dir / "wsi" / "CMU-1-Small-Region.svs", slide_id="cmu") as slide:
        slides.append(thumbnail(slide))
    for image, mpp in [*slides, (phantom, 4.0)]:
        fractions = slide_quality(image, mpp, tissue_mask(image, mpp)).fractions
        assert max(fractions.values()) < 0.01, fractions


def test_ink_on_a_real_slide(data_dir: Path) -> None:
    (_, image, _), *_ = _thumbnails(data_dir / "mosaics" / "normal_calib", 1)
    found, beyond = _found(*_inked(INKS["blue"], 0.9)(image), "pen")
    assert found > 0.8
    assert beyond < 0.01


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


def test_tile_flags_by_hand() -> None:
    """A slide of 400 x 200 px, masks of 4 px: pen on the left quarter, a fold over three fourths of the second."""
    pen, fold = np.zeros((2, 50, 100), np.bool_)
    pen[:, :25] = True
    fold[:, 20:43] = True
    quality = SlideQuality({"pen": pen, "fold": fold, "air": np.zeros((3, 5), np.bool_)}, {})
    x, y = np.array([0, 100, 172, 200, 300, 140]), np.zeros(6, np.int64)
    options = {"side_level0_px": 100, "size_level0_px": (400, 200)}
    assert tile_flags(quality, x, y, **options) == ["pen", "fold", None, None, None, "fold"]
    strict = QualityConfig(tile_share=0.9)
    assert tile_flags(quality, x, y, config=strict, **options) == ["pen", None, None, None, None, None]


@pytest.mark.parametrize(
    ("n_tissue", "counts", "reason"),
    [
        (100, {}, None),
        (100, {"pen": 75}, None),
        (100, {"pen": 76}, "pen"),
        (100, {"fold": 90, "pen": 5}, "folds"),
        (100, {"air": 100}, "air"),
        (100, {"blur": 40, "out_of_focus": 40}, "out_of_focus"),
        (100, {"pen": 40, "fold": 40}, "poor_quality"),
        (1, {"pen": 1}, "pen"),
        (0, {}, None),
    ],
)
def test_assess(n_tissue: int, counts: dict[Flag, int], reason: str | None) -> None:
    verdict = assess(n_tissue, counts)
    assert (verdict and verdict[0]) == reason
    if verdict:
        assert f"{n_tissue - sum(counts.values())} of {n_tissue} tissue tiles are good" in verdict[1]


def test_assess_counts_tiles_too() -> None:
    assert assess(100, {"pen": 50}, QualityConfig(min_good_tiles=60)) == (
        "pen",
        "50 of 100 tissue tiles are good, at least 60 needed; flagged: pen 50",
    )


def test_config_is_closed_and_bounded() -> None:
    assert set(FLAGS) == {"pen", "fold", "air", "blur", "out_of_focus"}
    for wrong in ({"tile_share": 0}, {"ink_ratio": 1.0}, {"pen_share": 0.5}):
        with pytest.raises(ValidationError):
            QualityConfig(**wrong)
