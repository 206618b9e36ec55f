"""Pen, folds and air: most of every artefact that is put there on purpose is found, and hardly anything else."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from tiles.artefact_images import INKS, Image, box, bubbled, filled_ring, folded, inked, line, ring, thumbnails, tilted

from uadray.tiles.artefacts import air_mask, pen_mask
from uadray.tiles.folds import _is_band, fold_mask
from uadray.tiles.optical_density import channels_of
from uadray.tiles.quality import (
    Flag,
    flag_masks,
)
from uadray.tiles.tissue import shrink, tissue_mask


def _found(image: Image, truth: np.ndarray, flag: Flag) -> tuple[float, float]:
    """The share of the artefact under its flag, and of the other tissue under it."""
    tissue = tissue_mask(image, 4.0)
    mask = flag_masks(image, 4.0, tissue)[flag]
    mask = cv2.resize(mask.astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
    near = cv2.dilate(truth.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    return float(mask[truth].mean()), float((mask & ~near & tissue).sum() / tissue.sum())


@pytest.mark.parametrize("opacity", [0.7, 1.0])
@pytest.mark.parametrize("colour", INKS)
def test_pen(phantom: Image, colour: str, opacity: float) -> None:
    found, beyond = _found(*inked(INKS[colour], opacity)(phantom), "pen")
    assert found > 0.8
    assert beyond < 0.005


def test_thin_seams_of_ink_are_no_pen(phantom: Image) -> None:
    image = phantom.copy()
    image[line(image, 50)] = INKS["green"]
    assert not flag_masks(image, 4.0, tissue_mask(image, 4.0))["pen"].any()


@pytest.mark.parametrize("width_um", [150, 190, 200, 210, 260])
@pytest.mark.parametrize("edge", [False, True])
def test_what_the_quick_look_leaves_out_is_no_pen(
    phantom: Image, width_um: int, edge: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strokes of about the least width, of every ink, also along the slide's edge."""
    options = {"ink_ratio": 1.05, "red_ratio": 0.7, "width_um": 200.0}
    n_seen = 0
    for colour in INKS.values():
        image = cv2.GaussianBlur(phantom, (0, 0), 1)
        width = round(width_um / 4)
        cv2.rectangle(image, (60, 0 if edge else 100), (300, (width if edge else 100 + width) - 1), colour, cv2.FILLED)
        channels = channels_of(shrink(image, 2))
        quick = pen_mask(channels, 8.0, **options)
        with monkeypatch.context() as patch:
            patch.setattr("uadray.tiles.artefacts._may_be_inked", lambda *_, **__: True)
            assert (pen_mask(channels, 8.0, **options) == quick).all()
        n_seen += bool(quick.any())
    assert (n_seen > 0) == (width_um >= 200 or edge)


@pytest.mark.parametrize("width_um", [40, 80, 120])
def test_fold(phantom: Image, width_um: float) -> None:
    """Folds are the hardest: some half of one in uniform tissue is what the rule is held to."""
    found, beyond = _found(*folded(phantom, width_um), "fold")
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
    assert fold_mask(channels_of(double), tissue, 4.0, **options)[195:205, 70:330].mean() > 0.9
    assert not fold_mask(channels_of(image), tissue, 4.0, **options).any()


@pytest.mark.parametrize("diameter_um", [500, 1000])
def test_bubble(phantom: Image, diameter_um: float) -> None:
    found, beyond = _found(*bubbled(phantom, diameter_um), "air")
    assert found > 0.9
    assert beyond < 0.005


def test_an_open_or_coloured_ring_is_no_bubble() -> None:
    glass = np.full((200, 200, 3), 240, np.uint8)
    for colour, end, closed in (((70, 70, 70), 360, True), ((70, 70, 70), 300, False), ((200, 60, 140), 360, False)):
        image = cv2.ellipse(glass.copy(), (100, 100), (50, 45), 0, 0, end, colour, 4)
        assert air_mask(channels_of(image), 8.0, min_um=300).any() == closed


@pytest.mark.parametrize(
    ("image", "is_bubble"),
    [
        pytest.param(ring(70, (60, 50), 4), True, id="bubble"),
        pytest.param(ring(20, (25, 22), 3), True, id="small black bubble"),
        pytest.param(ring(120, (130, 120), 6), True, id="large grey bubble"),
        pytest.param(ring(70, (60, 50), 14), False, id="wide ring"),
        pytest.param(ring(70, (60, 50), 40), False, id="wider ring"),
        pytest.param(ring(70, (60, 50), 4, centre=(52, 150)), False, id="at the edge"),
        pytest.param(box(0, 0, 3), False, id="frame at the edge"),
        pytest.param(box(0, 30, 3), False, id="frame"),
        pytest.param(box(130, 60, 5), False, id="grey cover slip"),
        pytest.param(ring(70, (145, 145), 3)[4:297, 4:297], False, id="ring that fills the slide"),
        pytest.param(tilted(box(90, 30, 4)), False, id="tilted cover slip"),
        pytest.param(filled_ring(ring(70, (60, 50), 4)), False, id="tissue with a grey border"),
    ],
)
def test_which_closed_dark_line_is_a_bubble(image: Image, is_bubble: bool) -> None:
    air = air_mask(channels_of(image), 8.0, min_um=300)
    assert air.any() == is_bubble
    assert air[len(air) // 2, len(air) // 2] == is_bubble


def test_a_bubble_is_at_most_five_millimetres() -> None:
    assert air_mask(channels_of(ring(70, (130, 120), 4)), 16.0, min_um=300).any()
    assert not air_mask(channels_of(ring(70, (130, 120), 4)), 24.0, min_um=300).any()


def test_a_rim_on_glass_around_most_of_the_tissue_is_a_frame() -> None:
    tissue = np.zeros((300, 300), np.bool_)
    tissue[130:170, 130:170] = True
    options = {"min_um": 300, "tissue": tissue}
    assert not air_mask(channels_of(ring(70, (60, 50), 4)), 8.0, **options).any()
    tissue[20:60, 20:70] = True
    assert air_mask(channels_of(ring(70, (60, 50), 4)), 8.0, **options).any(), "the larger part lies elsewhere"
    assert air_mask(channels_of(ring(70, (60, 50), 4)), 8.0, min_um=300, tissue=~tissue).any(), "tissue at the rim"


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
    air = flag_masks(image, 4.0, tissue_mask(image, 4.0))["air"]
    assert air[125, 85]
    assert air[125, 145]
    assert not air[60, 115]


def test_what_a_stroke_leaves_over_is_no_fold() -> None:
    """A dark area is no band; between two strokes what is left of it would be."""
    image = np.full((300, 300, 3), (220, 160, 190), np.uint8)
    image[100:200, 40:260] = (200, 105, 150)
    ink = np.zeros((300, 300), np.bool_)
    ink[100:138], ink[162:200] = True, True
    options = {"ratio": 1.5, "max_width_um": 250.0, "min_length_um": 300.0}
    assert fold_mask(channels_of(image), ~ink, 4.0, **options).any()
    assert not fold_mask(channels_of(image), ~ink, 4.0, ink=ink, **options).any()


def test_ink_on_a_real_slide(data_dir: Path) -> None:
    (_, image, _), *_ = thumbnails(data_dir / "mosaics" / "normal_calib", 1)
    found, beyond = _found(*inked(INKS["blue"], 0.9)(image), "pen")
    assert found > 0.8
    assert beyond < 0.01
