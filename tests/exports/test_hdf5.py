"""HDF5 by the rules of TRIDENT's reader; and by TRIDENT and LazySlide themselves, where they are installed."""

import io
import math
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from made_up_exports import BOUNDS, TILE_PX, made_slide, write_flat_slide

from uadray.exports.exported_slide import ExportOptions
from uadray.exports.hdf5 import exported

SCORES = [[0.0, 1.5, 2.0], [math.nan, 9.0, -1.0]]
PLACES = [[0, 0], [TILE_PX, 0], [2 * TILE_PX, 0], [TILE_PX, TILE_PX], [2 * TILE_PX, TILE_PX]]


def test_what_trident_reads() -> None:
    """`IO.read_coords`, `WSI.extract_patch_features` and `WSIPatcher`: names, types, and the patch that is cut."""
    slide = made_slide(SCORES, mpp_level0=0.25)
    with h5py.File(io.BytesIO(exported(slide, ExportOptions())), "r") as file:
        coords, attributes = file["coords"][:], dict(file["coords"].attrs)
        features, scores = file["features"][:], file["scores"][:]
    assert coords.tolist() == PLACES
    assert coords.dtype == np.int64
    assert features.shape == (5, 1)
    assert features.dtype == np.float32
    assert scores.tolist() == [0.0, 1.5, 2.0, 9.0, -1.0]
    assert (attributes["patch_size"], attributes["level0_magnification"], attributes["target_magnification"]) == (
        224,
        40,
        20,
    )
    assert (attributes["name"], attributes["overlap"], attributes["patch_size_level0"]) == ("s", 0, TILE_PX)
    downsample = (10 / attributes["target_magnification"]) / (10 / attributes["level0_magnification"])
    assert round(attributes["patch_size"] * downsample) == 448


def test_magnifications_are_not_rounded_to_those_that_are_usual() -> None:
    with h5py.File(io.BytesIO(exported(made_slide(SCORES, mpp_level0=0.2431), ExportOptions())), "r") as file:
        attributes = dict(file["coords"].attrs)
    ratio = attributes["level0_magnification"] / attributes["target_magnification"]
    assert ratio == pytest.approx(0.5 / 0.2431)


def test_normal_shares_and_whose_scores_these_are() -> None:
    with h5py.File(io.BytesIO(exported(made_slide(SCORES), ExportOptions())), "r") as file:
        assert file["normal_share"][:] == pytest.approx([0.5, 0.75, 0.8333333, 1.0, 0.3333333])
        assert dict(file.attrs) == {
            "bundle": "made-up", "slide_id": "s", "decision": "anomalous", "score": 2.5, "p_value": 0.01,
            "calibration_id": "c1",
        }  # fmt: skip


def test_the_same_slide_gives_the_same_bytes_and_an_empty_one_a_file() -> None:
    slide = made_slide(np.zeros((9, 9)), **BOUNDS)
    assert exported(slide, ExportOptions()) == exported(slide, ExportOptions())
    empty = replace(slide, tiles=slide.tiles.slice(0, 0), spec=None, scale=None)
    with h5py.File(io.BytesIO(exported(empty, ExportOptions())), "r") as file:
        assert file["coords"].shape == (0, 2)
        assert "normal_share" not in file
        assert "patch_size" not in file["coords"].attrs


def test_trident_reads_it(tmp_path: Path) -> None:
    trident = pytest.importorskip("trident.IO", reason="NO TRIDENT: it is read by the rules of its reader alone")
    path = tmp_path / "s_patches.h5"
    path.write_bytes(exported(made_slide(SCORES), ExportOptions()))
    attributes, coords = trident.read_coords(str(path))
    assert coords.tolist() == PLACES
    assert attributes["patch_size"] == 224


def test_lazyslide_takes_it(tmp_path: Path) -> None:
    wsidata = pytest.importorskip("wsidata", reason="NO LAZYSLIDE: pip install lazyslide, in an environment of its own")
    from wsidata.io import add_features, add_tiles

    path, slide = tmp_path / "s_patches.h5", made_slide(SCORES)
    path.write_bytes(exported(slide, ExportOptions()))
    wsi = wsidata.open_wsi(str(write_flat_slide(tmp_path / "s.tif", 3 * TILE_PX, 2 * TILE_PX)), store=None)
    with h5py.File(path, "r") as file:
        spec = wsidata.TileSpec.from_wsidata(
            wsi, int(file["coords"].attrs["patch_size"]), mpp=file["coords"].attrs["mpp"]
        )
        add_tiles(wsi, "tiles", file["coords"][:], spec, tissue_ids=np.zeros(len(file["coords"]), int))
        add_features(wsi, "scores", "tiles", file["features"][:])
    assert [geometry.bounds[:2] for geometry in wsi["tiles"].geometry] == [tuple(place) for place in PLACES]
    assert {geometry.bounds[2] - geometry.bounds[0] for geometry in wsi["tiles"].geometry} == {TILE_PX}
    assert wsi["scores"].X[:, 0].tolist() == [0.0, 1.5, 2.0, 9.0, -1.0]
