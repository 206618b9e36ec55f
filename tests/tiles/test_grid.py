"""The grid of a slide: hand-computed, then as properties of any grid."""

import io
import os
import re
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uadray.errors import SlideError
from uadray.schemas import TILES
from uadray.tiles import grid as grid_module
from uadray.tiles.grid import bands, grid, n_grid, slide_of
from uadray.tiles.spec import TileSpec
from uadray.tiles.tissue import tissue_fraction

SPEC = TileSpec(mpp=1.0, tile_px=16)


def _all_tissue(size_px: tuple[int, int], mpp: float, spec: TileSpec):
    """Every tile, those over the edge too."""
    return grid("s", size_px, mpp, np.ones((4, 4), dtype=bool), spec.model_copy(update={"min_tissue": 0.0}))


def _corners(tiles) -> list[tuple[int, int]]:
    return list(zip(tiles["x_level0_px"].to_pylist(), tiles["y_level0_px"].to_pylist(), strict=True))


@pytest.mark.parametrize(
    ("size_px", "mpp", "spec", "xs", "ys", "widths"),
    [
        pytest.param((48, 32), 1.0, SPEC, [0, 16, 32], [0, 16], [16] * 3, id="exact"),
        pytest.param((49, 32), 1.0, SPEC, [0, 16, 32, 48], [0, 16], [16] * 4, id="one pixel more is one column more"),
        pytest.param((96, 64), 0.5, SPEC, [0, 32, 64], [0, 32], [32] * 3, id="scale 2"),
        # 16 / 0.4 = 40 px
        pytest.param((100, 40), 0.4, SPEC, [0, 40, 80], [0], [40] * 3, id="scale 2.5"),
        # 16 / 0.3 = 53.33 px: edges 0, 53.33, 106.67, 160.0, 213.33
        pytest.param((200, 50), 0.3, SPEC, [0, 53, 107, 160], [0], [53, 54, 53, 53], id="scale 10/3"),
        # 10 * 1.04 = 10.4 px: 0, 10.4, 20.8, 31.2, 41.6, 52
        pytest.param(
            (45, 5),
            0.5,
            TileSpec(mpp=0.52, tile_px=10),
            [0, 10, 21, 31, 42],
            [0],
            [10, 11, 10, 11, 10],
            id="rounded one by one",
        ),
        # 10.6 px: 0, 10.6, 21.2, and 31.8 is the edge
        pytest.param((32, 5), 0.5, TileSpec(mpp=0.53, tile_px=10), [0, 11, 21], [0], [11, 10, 11], id="onto the edge"),
        pytest.param(
            (32, 16), 1.0, TileSpec(mpp=1, tile_px=16, stride_px=8), [0, 8, 16, 24], [0, 8], [16] * 4, id="overlap"
        ),
        # 10 * 0.3 = 3 px every 0.3 px: 0, 0.3 | 0.6, 0.9, 1.2 | 1.5, 1.8
        pytest.param((3, 1), 1.0, TileSpec(mpp=0.3, tile_px=10, stride_px=1), [0, 1, 2], [0], [3] * 3, id="fine"),
        pytest.param((3, 2), 1.0, SPEC, [0], [0], [16], id="smaller than a tile"),
    ],
)
def test_hand_computed(size_px, mpp, spec, xs, ys, widths) -> None:
    tiles = _all_tissue(size_px, mpp, spec)
    assert tiles.schema == TILES
    assert _corners(tiles) == [(x, y) for y in ys for x in xs]
    assert tiles["width_level0_px"].to_pylist() == widths * len(ys)
    assert len(set(tiles["tile_id"].to_pylist())) == len(tiles)


def test_fractions_bands_and_ids_by_hand() -> None:
    """A slide of 40 x 16 px whose left 24 px are tissue: 1, 0.5, and a last tile that is half outside."""
    mask = np.zeros((2, 5), dtype=bool)
    mask[:, :3] = True
    tiles = grid("s", (40, 16), 1.0, mask, TileSpec(mpp=1, tile_px=16, min_tissue=0))
    assert tiles["tile_id"].to_pylist() == ["s/x0_y0_16px_1mpp", "s/x16_y0_16px_1mpp", "s/x32_y0_16px_1mpp"]
    assert tiles["tissue_fraction"].to_pylist() == [1.0, 0.5, 0.0]
    assert tiles["band"].to_pylist() == ["tissue", "border", "background"]
    for least, expected in ((0.5, [0, 16]), (0.51, [0])):
        spec = TileSpec(mpp=1, tile_px=16, min_tissue=least)
        assert grid("s", (40, 16), 1.0, mask, spec).equals(tiles.slice(0, len(expected)))
        assert n_grid("s", (40, 16), 1.0, spec) == 3


def test_outside_the_slide_is_background() -> None:
    assert _all_tissue((24, 24), 1.0, SPEC)["tissue_fraction"].to_pylist() == [1.0, 0.5, 0.5, 0.25]


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(1, "tissue"), (0.9, "tissue"), (0.8999, "border"), (0.1001, "border"), (0.1, "background"), (0, "background")],
)
def test_bands(fraction: float, expected: str) -> None:
    assert bands(np.array([fraction], np.float64)).to_pylist() == [expected]


def test_ids_do_not_depend_on_what_else_is_cut() -> None:
    """Another slide size or tissue threshold leaves the ids of the same places as they are."""
    small, large = (_all_tissue(size, 0.3, SPEC) for size in ((200, 100), (500, 300)))
    shared = set(_corners(small)) & set(_corners(large))
    assert len(shared) == 8
    ids = [dict(zip(_corners(t), t["tile_id"].to_pylist(), strict=True)) for t in (small, large)]
    assert all(ids[0][corner] == ids[1][corner] for corner in shared)


def _tile_id(slide_id: str, x: int, y: int, spec: TileSpec) -> str:
    rows = grid_module._table(slide_id, np.array([[x], [y], [1], [1]]), np.ones(1), spec)
    return str(rows["tile_id"][0].as_py())


def test_ids_tell_specs_apart() -> None:
    specs = [TileSpec(mpp=m, tile_px=p) for m in (0.25, 0.5, 0.5032, 0.50000001) for p in (64, 96)]
    assert len({_tile_id("s", 0, 0, spec) for spec in specs}) == 8


GOLDEN = {
    ("a", 0, 0, 64, 0.5): "a/x0_y0_64px_0.5mpp",
    ("TCGA-CR-7395 ä", 123456, 7, 256, 0.2527): "TCGA-CR-7395 ä/x123456_y7_256px_0.2527mpp",
    ("b", 53, 1000000, 96, 0.972): "b/x53_y1000000_96px_0.972mpp",
    ("c", 1, 2, 8, 1.0): "c/x1_y2_8px_1mpp",
    ("d", 1, 2, 8, 0.1 + 0.2): "d/x1_y2_8px_0.30000000000000004mpp",
    ("e", 1, 2, 8, 99.5): "e/x1_y2_8px_99.5mpp",
}
"""Written into results of former runs: these may never change."""


GOLDEN_GRID = "0 50 101 151 202 252 303"  # 16 px at 0.972 on a slide of 0.308 um: 50.4935 px


PRINT_IDS = """
import sys
import numpy as np
from uadray.tiles.spec import TileSpec
from uadray.tiles.grid import grid
sys.stdout.reconfigure(encoding="utf-8")
tiles = grid("ä", (320, 50), 0.308, np.ones((1, 1), bool), TileSpec(mpp=0.972, tile_px=16, min_tissue=0))
print(" ".join(tiles["tile_id"].to_pylist()), end="")
"""


def test_ids_are_those_of_former_runs_and_other_machines() -> None:
    for (slide_id, x, y, tile_px, mpp), expected in GOLDEN.items():
        assert _tile_id(slide_id, x, y, TileSpec(mpp=mpp, tile_px=tile_px)) == expected
    expected = " ".join(f"ä/x{x}_y0_16px_0.972mpp" for x in GOLDEN_GRID.split())
    assert " ".join(_all_tissue((320, 50), 0.308, TileSpec(mpp=0.972, tile_px=16))["tile_id"].to_pylist()) == (
        expected.replace("ä", "s")
    )
    environment = os.environ | {"PYTHONHASHSEED": "1", "LC_ALL": "C", "LANG": "C", "TZ": "Asia/Kathmandu"}
    run = subprocess.run([sys.executable, "-c", PRINT_IDS], env=environment, capture_output=True, check=True)
    assert run.stdout.decode() == expected


slide_ids = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="/\\"), min_size=1, max_size=30)


coordinates = st.integers(0, 2**31)


@given(slide_id=slide_ids, x=coordinates, y=coordinates, tile_px=st.integers(8, 4096), mpp=st.floats(0.0101, 99))
def test_ids_say_what_they_are_of(slide_id: str, x: int, y: int, tile_px: int, mpp: float) -> None:
    name = _tile_id(slide_id, x, y, TileSpec(mpp=mpp, tile_px=tile_px))
    match = re.fullmatch(r"x(\d+)_y(\d+)_(\d+)px_(.+)mpp", name.removeprefix(f"{slide_id}/"))
    assert match is not None
    assert (*map(int, match.groups()[:3]), float(match[4])) == (x, y, tile_px, mpp)
    assert slide_of(name) == slide_id


@pytest.mark.parametrize(
    "text", ["", "a.jpg", "normal/a.jpg", "x0_y0_64px_0.5mpp", "a/x0_y0_64px_0.5mpp\n", "a/x-1_y0_64px_0.5mpp"]
)
def test_other_ids_are_of_no_slide(text: str) -> None:
    assert slide_of(text) is None


sizes = st.tuples(st.integers(1, 1200), st.integers(1, 1200))


specs = st.builds(TileSpec, mpp=st.floats(0.2, 4.0), tile_px=st.integers(16, 512))


def _one_axis(tiles, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """Origins and lengths along x or y, each once; every row of the grid must have the same."""
    names = {"x": ("x_level0_px", "width_level0_px"), "y": ("y_level0_px", "height_level0_px")}[axis]
    pairs = set(zip(*(tiles[name].to_pylist() for name in names), strict=True))
    origins, lengths = np.array(sorted(pairs)).T
    return origins, lengths


@settings(max_examples=120, deadline=None)
@given(size_px=sizes, mpp=st.floats(0.2, 2.0), spec=specs)
def test_any_grid_has_every_pixel_in_exactly_one_tile(size_px: tuple[int, int], mpp: float, spec: TileSpec) -> None:
    tiles = _all_tissue(size_px, mpp, spec)
    pitch = spec.tile_px * spec.mpp / mpp
    n_tiles = 1
    for axis, length in zip("xy", size_px, strict=True):
        origins, widths = _one_axis(tiles, axis)
        times = np.zeros(length + int(pitch) + 2, dtype=int)
        for origin, width in zip(origins, widths, strict=True):
            times[origin : origin + width] += 1
        assert (times[:length] == 1).all()
        assert origins[-1] < length, "a tile wholly outside"
        assert np.abs(origins - np.arange(len(origins)) * pitch).max() <= 0.5 + 1e-6, "rounding adds up"
        assert np.abs(widths - pitch).max() < 1, "not what is read"
        n_tiles *= len(origins)
    assert len(tiles) == n_tiles == len(set(_corners(tiles))) == len(set(tiles["tile_id"].to_pylist()))
    ids = tiles["tile_id"].to_pylist()
    assert all(name.startswith(f"s/x{x}_y{y}_") for name, (x, y) in zip(ids, _corners(tiles), strict=True))


@settings(max_examples=100, deadline=None)
@given(
    width=st.integers(1, 400), mpp=st.floats(0.2, 2), tile_mpp=st.floats(0.1, 2), tile_px=st.integers(8, 64),
    data=st.data(),
)  # fmt: skip
def test_any_overlap_leaves_no_gap_and_repeats_no_id(
    width: int, mpp: float, tile_mpp: float, tile_px: int, data: st.DataObject
) -> None:
    """Down to strides below a level-0 pixel. A stride of `tile / n` has each pixel in about n tiles."""
    spec = TileSpec(mpp=tile_mpp, tile_px=tile_px, stride_px=data.draw(st.integers(1, tile_px)))
    tiles = _all_tissue((width, 1), mpp, spec)
    origins, widths = _one_axis(tiles, "x")
    assert len(origins) * len(_one_axis(tiles, "y")[0]) == len(tiles) == len(set(tiles["tile_id"].to_pylist()))
    covered = np.zeros(width + int(widths.max()), dtype=bool)
    for origin, length in zip(origins, widths, strict=True):
        covered[origin : origin + length] = True
    assert covered[:width].all()
    assert np.abs(widths - tile_px * tile_mpp / mpp).max() <= 1


@settings(max_examples=50, deadline=None)
@given(
    slide_id=slide_ids, size_px=st.tuples(st.integers(1, 300), st.integers(1, 300)), mpp=st.floats(0.2, 2.0),
    spec=specs, bits=st.lists(st.booleans(), min_size=4, max_size=4),
)  # fmt: skip
def test_any_plan_round_trips(
    slide_id: str, size_px: tuple[int, int], mpp: float, spec: TileSpec, bits: list[bool]
) -> None:
    """Through Arrow IPC, as between processes, and Parquet, as on disks: schema, rows and order."""
    tiles = grid(slide_id, size_px, mpp, np.array(bits).reshape(2, 2), spec)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, tiles.schema) as writer:
        writer.write_table(tiles)
    assert pa.ipc.open_stream(sink.getvalue()).read_all().equals(tiles, check_metadata=True)
    sink = io.BytesIO()
    pq.write_table(tiles, sink, compression="zstd")
    read = pq.read_table(sink)
    assert read.schema.equals(TILES)
    assert read.equals(tiles)
    assert TileSpec.model_validate_json(spec.model_dump_json()) == spec
    assert grid(slide_id, size_px, mpp, np.array(bits).reshape(2, 2), spec).equals(
        grid(slide_id, size_px, mpp, np.array(bits).reshape(2, 2), spec)
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data(), width=st.integers(1, 12), height=st.integers(1, 12))
def test_tissue_fraction_against_brute_force(data: st.DataObject, width: int, height: int) -> None:
    """Every mask pixel is painted as 4 x 4 level-0 pixels, and those of each tile are counted."""
    bits = data.draw(st.lists(st.booleans(), min_size=width * height, max_size=width * height))
    mask = np.array(bits).reshape(height, width)
    painted = np.zeros((height * 4 + 40, width * 4 + 40), dtype=bool)
    painted[: height * 4, : width * 4] = np.kron(mask, np.ones((4, 4), dtype=bool))
    x, y = (a.ravel() for a in np.meshgrid(np.arange(0, width * 4, 3), np.arange(0, height * 4, 5)))
    w, h = (1 + (a * factor) % 40 for a, factor in ((x, 7), (y, 11)))  # 1 to 40 px, all shapes
    expected = [painted[b : b + q, a : a + p].mean() for a, b, p, q in zip(x, y, w, h, strict=True)]
    np.testing.assert_allclose(tissue_fraction(mask, (width * 4, height * 4), x, y, w, h), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("size_px", "spec"),
    [
        ((2**31, 2**31), TileSpec(mpp=0.5, tile_px=64)),
        ((2**31, 1), TileSpec(mpp=0.05, tile_px=8)),
        ((300_000, 300_000), TileSpec(mpp=0.5, tile_px=256, stride_px=1)),
    ],
)
def test_a_header_that_claims_too_much_is_refused_at_once(size_px: tuple[int, int], spec: TileSpec) -> None:
    began = time.process_time()
    with pytest.raises(SlideError, match="is its header intact") as caught:
        grid("s", size_px, 0.5, np.ones((2, 2), dtype=bool), spec)
    with pytest.raises(SlideError, match="is its header intact"):
        n_grid("s", size_px, 0.5, spec)
    assert caught.value.reason == "too_large"
    assert time.process_time() - began < 1


CLAIMS = """
import resource, sys
import numpy as np
from uadray.tiles.spec import TileSpec
from uadray.tiles.grid import grid, n_grid
spec = TileSpec(mpp=0.25, tile_px=64)
mask = np.zeros((512, 512), bool)
mask[100:120, 100:120] = True
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tiles = grid("s", (90_510, 90_510), 0.25, mask, spec)
print(n_grid("s", (90_510, 90_510), 0.25, spec), len(tiles))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_glass_takes_no_memory() -> None:
    """Two million tiles of which 3,058 have tissue: naming all of them took 595 MiB."""
    run = subprocess.run([sys.executable, "-c", CLAIMS], capture_output=True, text=True, check=True, timeout=60)
    counts, mebibytes = run.stdout.splitlines()
    total, kept = map(int, counts.split())
    assert total == 1415**2
    assert 2500 < kept < 3500
    assert int(mebibytes) < 150


def test_more_tissue_than_any_slide_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_module, "MAX_TISSUE_TILES", 1000)
    monkeypatch.setattr(grid_module, "TILES_AT_ONCE", 100)
    with pytest.raises(SlideError, match="tissue in over 1,000 tiles") as caught:
        _all_tissue((1600, 1600), 1.0, SPEC)
    assert caught.value.reason == "too_large"


def test_tissue_is_looked_at_in_parts_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.random.default_rng(0).random((40, 30)) > 0.5
    whole = grid("s", (997, 1203), 0.7, mask, SPEC)
    monkeypatch.setattr(grid_module, "TILES_AT_ONCE", 100)
    assert grid("s", (997, 1203), 0.7, mask, SPEC).equals(whole)
    assert 0 < len(whole) < n_grid("s", (997, 1203), 0.7, SPEC)
