"""Masks as outlines and back: the same mask, or nearly the same where outlines are simplified."""

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiles.mask_boxes import SHAPE, SIZE, box, overlap

from uadray.phantoms.layout import PhantomSpec
from uadray.phantoms.tissue import paint
from uadray.slides.opening import open_slide
from uadray.slides.thumbnail import thumbnail
from uadray.tiles import mask_outlines
from uadray.tiles.mask_geojson import read_mask
from uadray.tiles.mask_outlines import write_masks
from uadray.tiles.tissue import tissue_mask


def test_quality_of_what_is_written() -> None:
    tissue, pen = box(10, 10, 60, 60) & ~box(20, 20, 30, 30), box(70, 0, 80, 80)
    written = json.loads(write_masks({"Tissue": tissue, "Pen": pen, "Air": box(0, 0, 0, 0)}, SIZE))
    assert [f["properties"]["classification"]["name"] for f in written["features"]] == ["Tissue", "Pen"]
    assert all(f["properties"]["objectType"] == "annotation" for f in written["features"])
    shapes = [shapely.geometry.shape(f["geometry"]) for f in written["features"]]
    assert all(shape.is_valid for shape in shapes)
    assert shapes[0].area == pytest.approx(tissue.sum() * 100, rel=0.05)
    x0, y0, x1, y1 = shapes[1].bounds
    assert (x0, y0, x1, y1) == pytest.approx((700, 0, 800, 800), abs=5)
    assert (read_mask(json.dumps(written).encode(), "s", SIZE, SHAPE) == tissue).all()


@settings(max_examples=60, deadline=None)
@given(
    mask=arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40))),
    scale=st.tuples(st.floats(2, 70), st.floats(2, 70)),  # below, a corner may be cut through a pixel's very centre
)
def test_round_trip_of_any_mask(mask: np.ndarray, scale: tuple[float, float]) -> None:
    size = (max(1, round(mask.shape[1] * scale[0])), max(1, round(mask.shape[0] * scale[1])))
    data = write_masks({"Tissue": mask}, size)
    assert all(shapely.geometry.shape(f["geometry"]).is_valid for f in json.loads(data)["features"])
    back = read_mask(data, "s", size, mask.shape)
    assert not mask.any() or overlap(mask, back) >= 0.99
    assert back.any() == mask.any()


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_round_trip_of_noise(density: float) -> None:
    mask = np.random.default_rng(0).random((50, 70)) < density
    assert overlap(mask, read_mask(write_masks({"Tissue": mask}, (1234, 999)), "s", (1234, 999), mask.shape)) >= 0.99


@pytest.mark.parametrize("name", ["mosaics/normal_calib/ncalib_000.tif", "wsi/CMU-1-Small-Region.svs"])
def test_round_trip_of_real_masks(data_dir: Path, name: str) -> None:
    with open_slide(data_dir / name, slide_id="s") as slide:
        size = slide.level_sizes_px[0]
        image, mpp = thumbnail(slide)
    _round_trip_and_small(tissue_mask(image, mpp), size)


def test_round_trip_of_a_phantom_is_simplified() -> None:
    image, _ = paint(PhantomSpec(512, 512, mpp=4.0, seed=4))
    _round_trip_and_small(tissue_mask(image, 4.0), (8192, 8192))


def _round_trip_and_small(mask: np.ndarray, size: tuple[int, int]) -> None:
    data = write_masks({"Tissue": mask}, size)
    assert mask.any()
    assert overlap(mask, read_mask(data, "s", size, mask.shape)) >= 0.99
    assert len(data) < 80_000


def test_too_many_vertices_are_simplified_until_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_outlines, "MAX_VERTICES_OUT", 60)
    y, x = np.ogrid[:80, :100]
    mask = np.hypot(x - 50, y - 40) < 30 + 4 * np.sin(np.arctan2(y - 40, x - 50) * 20)
    data = write_masks({"Tissue": mask}, SIZE)
    (feature,) = json.loads(data)["features"]
    assert sum(len(r) for p in feature["geometry"]["coordinates"] for r in p) < 90
    assert overlap(mask, read_mask(data, "s", SIZE, SHAPE)) > 0.8
