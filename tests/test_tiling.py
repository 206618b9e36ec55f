"""The grid of a slide: hand-computed, then as properties of any grid."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from uadray.errors import SlideError
from uadray.schemas import TILES
from uadray.tiling import TileSpec, band, grid, keep_tissue, tile_id, tissue_fraction

SPEC = TileSpec(mpp=1.0, tile_px=16)


def _all_tissue(size_px: tuple[int, int], mpp: float, spec: TileSpec):
    return grid("s", size_px, mpp, np.ones((4, 4), dtype=bool), spec)


def _corners(tiles) -> list[tuple[int, int]]:
    return list(zip(tiles["x_level0_px"].to_pylist(), tiles["y_level0_px"].to_pylist(), strict=True))


@pytest.mark.parametrize(
    ("size_px", "mpp", "spec", "xs", "ys", "side"),
    [
        pytest.param((48, 32), 1.0, SPEC, [0, 16, 32], [0, 16], 16, id="exact"),
        pytest.param((49, 32), 1.0, SPEC, [0, 16, 32, 48], [0, 16], 16, id="one pixel more is one column more"),
        pytest.param((96, 64), 0.5, SPEC, [0, 32, 64], [0, 32], 32, id="scale 2"),
        # 16 / 0.4 = 40 px
        pytest.param((100, 40), 0.4, SPEC, [0, 40, 80], [0], 40, id="scale 2.5"),
        # 16 / 0.3 = 53.33 px: origins 0, 53.33, 106.67, 160.0; a tile touches 54 px
        pytest.param((200, 50), 0.3, SPEC, [0, 53, 107, 160], [0], 54, id="scale 10/3"),
        # 10 * 1.04 = 10.4 px: 0, 10.4, 20.8, 31.2, 41.6
        pytest.param(
            (45, 5), 0.5, TileSpec(mpp=0.52, tile_px=10), [0, 10, 21, 31, 42], [0], 11, id="rounded one by one"
        ),
        pytest.param((32, 16), 1.0, TileSpec(mpp=1, tile_px=16, stride_px=8), [0, 8, 16, 24], [0, 8], 16, id="overlap"),
        pytest.param((3, 2), 1.0, SPEC, [0], [0], 16, id="smaller than a tile"),
    ],
)
def test_hand_computed(size_px, mpp, spec, xs, ys, side) -> None:
    tiles = _all_tissue(size_px, mpp, spec)
    assert tiles.schema == TILES
    assert _corners(tiles) == [(x, y) for y in ys for x in xs]
    assert set(tiles["width_level0_px"].to_pylist()) == set(tiles["height_level0_px"].to_pylist()) == {side}


def test_fractions_bands_and_ids_by_hand() -> None:
    """A slide of 40 x 16 px whose left 24 px are tissue: 1, 0.5, and a last tile that is half outside."""
    mask = np.zeros((2, 5), dtype=bool)
    mask[:, :3] = True
    tiles = grid("s", (40, 16), 1.0, mask, SPEC)
    assert tiles["tile_id"].to_pylist() == ["s/x0_y0_16px_1mpp", "s/x16_y0_16px_1mpp", "s/x32_y0_16px_1mpp"]
    assert tiles["tissue_fraction"].to_pylist() == [1.0, 0.5, 0.0]
    assert tiles["band"].to_pylist() == ["tissue", "border", "background"]
    assert keep_tissue(tiles, SPEC)["x_level0_px"].to_pylist() == [0, 16]
    assert keep_tissue(tiles, TileSpec(mpp=1, tile_px=16, min_tissue=0.51))["x_level0_px"].to_pylist() == [0]
    assert len(keep_tissue(tiles, TileSpec(mpp=1, tile_px=16, min_tissue=0))) == 3


def test_outside_the_slide_is_background() -> None:
    assert _all_tissue((24, 24), 1.0, SPEC)["tissue_fraction"].to_pylist() == [1.0, 0.5, 0.5, 0.25]


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(1, "tissue"), (0.9, "tissue"), (0.8999, "border"), (0.1001, "border"), (0.1, "background"), (0, "background")],
)
def test_bands(fraction: float, expected: str) -> None:
    assert band(fraction) == expected


def test_ids_do_not_depend_on_what_else_is_cut() -> None:
    """Another slide size or tissue threshold leaves the ids of the same places as they are."""
    small, large = (_all_tissue(size, 0.3, SPEC) for size in ((200, 100), (500, 300)))
    shared = set(_corners(small)) & set(_corners(large))
    assert len(shared) == 8
    ids = [dict(zip(_corners(t), t["tile_id"].to_pylist(), strict=True)) for t in (small, large)]
    assert all(ids[0][corner] == ids[1][corner] for corner in shared)


def test_ids_tell_specs_apart() -> None:
    specs = [TileSpec(mpp=m, tile_px=p) for m in (0.25, 0.5, 0.5032) for p in (64, 96)]
    assert len({tile_id("s", 0, 0, spec) for spec in specs}) == 6


sizes = st.tuples(st.integers(1, 3000), st.integers(1, 3000))
specs = st.builds(TileSpec, mpp=st.floats(0.2, 4.0), tile_px=st.integers(16, 512))


@settings(max_examples=150, deadline=None)
@given(size_px=sizes, mpp=st.floats(0.2, 2.0), spec=specs)
def test_any_grid_covers_every_pixel_and_never_drifts(size_px: tuple[int, int], mpp: float, spec: TileSpec) -> None:
    tiles = _all_tissue(size_px, mpp, spec)
    pitch = spec.tile_px * spec.mpp / mpp
    side = tiles["width_level0_px"][0].as_py()
    for axis, length in zip("xy", size_px, strict=True):
        origins = np.unique(tiles[f"{axis}_level0_px"].to_numpy())
        covered = np.zeros(length, dtype=bool)
        for origin in origins:
            covered[origin : origin + side] = True
        assert covered.all()
        assert origins[-1] < length, "a tile wholly outside"
        assert np.abs(origins - np.arange(len(origins)) * pitch).max() <= 0.5 + 1e-6
    assert len(tiles) == len(set(_corners(tiles))) == len(set(tiles["tile_id"].to_pylist()))
    assert pitch <= side + 1e-5
    assert side < pitch + 1


@settings(max_examples=60, deadline=None)
@given(data=st.data(), width=st.integers(1, 12), height=st.integers(1, 12), side=st.integers(1, 40))
def test_tissue_fraction_against_brute_force(data: st.DataObject, width: int, height: int, side: int) -> None:
    """Every mask pixel is painted as 4 x 4 level-0 pixels, and those of each tile are counted."""
    bits = data.draw(st.lists(st.booleans(), min_size=width * height, max_size=width * height))
    mask = np.array(bits).reshape(height, width)
    painted = np.zeros((height * 4 + side, width * 4 + side), dtype=bool)
    painted[: height * 4, : width * 4] = np.kron(mask, np.ones((4, 4), dtype=bool))
    x, y = (a.ravel() for a in np.meshgrid(np.arange(0, width * 4, 3), np.arange(0, height * 4, 5)))
    expected = [painted[b : b + side, a : a + side].mean() for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(tissue_fraction(mask, (width * 4, height * 4), x, y, side), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("size_px", "spec"),
    [
        ((2**31, 2**31), TileSpec(mpp=0.5, tile_px=64)),
        ((2**31, 1), TileSpec(mpp=0.05, tile_px=8)),
        ((300_000, 300_000), TileSpec(mpp=0.5, tile_px=256, stride_px=1)),
    ],
)
def test_a_header_that_claims_too_much_is_refused_at_once(size_px: tuple[int, int], spec: TileSpec) -> None:
    began = time.perf_counter()
    with pytest.raises(SlideError, match="is its header intact") as caught:
        grid("s", size_px, 0.5, np.ones((2, 2), dtype=bool), spec)
    assert caught.value.reason == "too_large"
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    "values", [{"mpp": 0}, {"mpp": float("nan")}, {"tile_px": 4}, {"min_tissue": 1.1}, {"stride_px": 17}, {"colour": 1}]
)
def test_specs_that_make_no_sense(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        TileSpec.model_validate({"mpp": 0.5, "tile_px": 16} | values)
