"""Slides as pictures: deep zoom, heat, and tiles as the detector saw them."""

import asyncio
import math
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg
import tifffile
from seaweed import SeaweedServer

from uadray.errors import NotFoundError, SlideError
from uadray.phantoms.archive import write_archive
from uadray.phantoms.pyramid import write_pyramid
from uadray.reports.colours import TINT, colour
from uadray.reports.heatmap import heatmap
from uadray.schemas import TILE_SCORES
from uadray.screening.parts import from_ipc, pixels_of
from uadray.screening.slide_reader import read_slide
from uadray.serving.views.deep_zoom import TILE_PX, max_level, min_level, scale_of, tile_size, zoom_tile
from uadray.serving.views.heat_tiles import HeatScale, HeatTable
from uadray.serving.views.open_slides import OpenSlide, OpenSlides, SlideRef
from uadray.serving.views.slide_views import SlideViews, TilesRef
from uadray.slides.identity import slide_etag
from uadray.slides.manifest import SlideRow
from uadray.slides.opening import open_slide
from uadray.slides.slide import Mpp
from uadray.slides.thumbnail import thumbnail
from uadray.storage import objects
from uadray.tiles.cells import with_cells
from uadray.tiles.spec import TileSpec
from uadray.tiles.stain import StainConfig
from uadray.tiles.stain_fit import fit_stain
from uadray.tiles.tissue import tissue_mask

Picture = npt.NDArray[np.uint8]

SIZE = (1300, 900)


@pytest.fixture(scope="module")
def image() -> Picture:
    """Smooth, so that JPEG keeps it: [900, 1300, 3]."""
    coarse = np.random.default_rng(0).integers(60, 256, (9, 13, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, SIZE, interpolation=cv2.INTER_CUBIC))


@pytest.fixture(scope="module")
def slide_path(image: Picture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pyramid(tmp_path_factory.mktemp("view") / "slide.tif", image, mpp=0.5, downsamples=(4,))


@pytest.fixture
def views() -> Iterator[SlideViews]:
    made = SlideViews(slides=2, threads=4)
    yield made
    made.close()


def ref_of(path: Path | str, *, mpp: float = 0.5) -> SlideRef:
    return SlideRef("s", str(path), slide_etag(SlideRow("s", str(path))), mpp)


def decoded(jpeg: bytes) -> Picture:
    return np.asarray(simplejpeg.decode_jpeg(jpeg))


def mosaic(path: Path, level: int, size: tuple[int, int] = SIZE) -> Picture:
    """All tiles of a level, put together as a viewer does, before they are JPEGs."""
    opened, scale = OpenSlide(ref_of(path)), scale_of(size, level) * TILE_PX
    n_columns, n_rows = (-(-side // scale) for side in size)
    rows = [
        np.hstack([zoom_tile(opened.slide, level, x, y, overview=opened.overview) for x in range(n_columns)])
        for y in range(n_rows)
    ]
    opened.slide.close()
    return np.vstack(rows)


def test_levels_are_those_of_deep_zoom() -> None:
    assert [max_level(size) for size in ((1, 1), (2, 1), (512, 512), (513, 1), (100_000, 80_000))] == [0, 1, 9, 10, 17]
    for size in ((1300, 900), (513, 511), (100_001, 7), (1, 1)):
        assert max_level(size) == math.ceil(math.log2(max(size)))
        assert tile_size(size, 0, 0, 0) == (1, 1)
        assert min_level(size) <= max_level(size)
        for level in range(max_level(size) + 1):
            sides = [math.ceil(side / scale_of(size, level)) for side in size]
            last = [(side - 1) // TILE_PX for side in sides]
            shown = tile_size(size, level, *last)
            assert shown is not None
            assert [at * TILE_PX + part for at, part in zip(last, shown, strict=True)] == sides
            assert tile_size(size, level, last[0] + 1, 0) is None
    assert tile_size((9, 9), -1, 0, 0) is None
    assert tile_size((9, 9), 5, 0, 0) is None


@pytest.mark.parametrize("level", [11, 10, 9, 8, 7, 5, 0])
def test_tiles_put_together_are_the_slide(slide_path: Path, image: Picture, level: int) -> None:
    shown, scale = mosaic(slide_path, level), scale_of(SIZE, level)
    white = (255, 255, 255)
    padded = cv2.copyMakeBorder(image, 0, -900 % scale, 0, -1300 % scale, cv2.BORDER_CONSTANT, value=white)
    expected = cv2.resize(padded, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA)
    assert shown.shape == expected.shape
    difference = np.abs(shown.astype(int) - expected)
    assert difference.mean() < 1.5  # JPEG of the slide


def test_a_picture_is_the_tile(views: SlideViews, slide_path: Path) -> None:
    shown = decoded(asyncio.run(views.image(ref_of(slide_path), 11, 1, 1)))
    assert np.abs(shown.astype(int) - mosaic(slide_path, 11)[512:900, 512:1024]).mean() < 1.5


def test_a_slide_without_levels_is_shown_as_a_whole(tmp_path: Path) -> None:
    image = np.full((64, 20_000, 3), 255, np.uint8)
    image[:, 5000:10_000] = (200, 30, 60)
    path = tmp_path / "flat.tif"
    tifffile.imwrite(path, image, tile=(64, 64), photometric="rgb", compression="deflate")
    level = max_level((20_000, 64)) - 6
    shown = mosaic(path, level, (20_000, 64))
    assert shown.shape == (1, 313, 3)
    assert np.abs(shown[0, 90:145].astype(int) - (200, 30, 60)).max() < 12
    assert shown[0, 200:].min() > 245
    assert mosaic(path, 0, (20_000, 64)).tolist() == [[[255, 255, 255]]]  # glass around it, and no overflow


@pytest.mark.parametrize(("level", "x", "y"), [(12, 0, 0), (11, 3, 0), (11, 0, 2), (40, 0, 0), (11, 2**24, 2**24)])
def test_no_tile_lies_outside(views: SlideViews, slide_path: Path, level: int, x: int, y: int) -> None:
    with pytest.raises(SlideError) as caught:
        asyncio.run(views.image(ref_of(slide_path), level, x, y))
    assert caught.value.reason == "outside"


def test_another_version_of_a_slide_is_no_picture(views: SlideViews, slide_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    shutil.copy(slide_path, path)
    ref = ref_of(path)
    assert asyncio.run(views.image(ref, 8, 0, 0))
    write_pyramid(path, np.zeros((900, 1300, 3), np.uint8), mpp=0.5, downsamples=(4,))
    with pytest.raises(SlideError) as caught:
        asyncio.run(views.image(replace(ref, slide_id="other"), 8, 0, 0))
    assert caught.value.reason == "changed"
    missing = replace(ref, uri=str(tmp_path / "gone.tif"))
    with pytest.raises(SlideError, match="no such file"):
        asyncio.run(views.image(missing, 8, 0, 0))


def test_few_slides_stay_open_and_none_in_use_is_closed(slide_path: Path, tmp_path: Path) -> None:
    paths = [shutil.copy(slide_path, tmp_path / f"{i}.tif") for i in range(4)]
    slides = OpenSlides(most=2)
    with slides.use(ref_of(paths[0])) as first:
        for path in paths[1:]:
            with slides.use(ref_of(path)) as opened:
                assert opened.slide.read_region(0, 0, 0, 4, 4).shape == (4, 4, 3)
        assert len(slides) == 2
        assert first.slide.read_region(1, 0, 0, 4, 4).shape == (4, 4, 3)  # still open
    with slides.use(ref_of(paths[0])) as again:
        assert again is first
    idle = OpenSlides(most=2, idle_s=0)
    for path in paths[:2]:
        with idle.use(ref_of(path)):
            pass
    assert len(idle) <= 1


def test_many_threads_get_the_same_pictures(slide_path: Path) -> None:
    views, ref = SlideViews(slides=1, threads=8), ref_of(slide_path)
    places = [(11, x, y) for x in range(3) for y in range(2)] + [(10, 0, 0), (9, 0, 0)]
    alone = [asyncio.run(views.image(ref, *place)) for place in places]

    async def together() -> list[bytes]:
        return list(await asyncio.gather(*(views.image(ref, *place) for place in places * 8)))

    assert asyncio.run(together()) == alone * 8
    views.close()


def test_a_slide_is_opened_once_by_many_at_once(slide_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from uadray.serving.views import open_slides

    opened, plain = list[str](), open_slides.open_slide

    def counted(*args: Any, **options: Any) -> Any:
        opened.append(threading.current_thread().name)
        return plain(*args, **options)

    monkeypatch.setattr(open_slides, "open_slide", counted)
    slides, ref = OpenSlides(most=1), ref_of(slide_path)

    def size(_: int) -> tuple[int, int]:
        with slides.use(ref) as each:
            return each.slide.level_sizes_px[0]

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(size, range(32))) == {SIZE}
    assert len(opened) == 1


@pytest.mark.s3
def test_a_slide_in_s3_is_shown_of_the_version_that_was_decided_about(
    s3: SeaweedServer, views: SlideViews, slide_path: Path
) -> None:
    uri = f"s3://{s3.bucket}/view/slide.tif"
    objects.write_bytes(uri, slide_path.read_bytes())
    ref = ref_of(uri)
    local = asyncio.run(views.image(ref_of(slide_path), 11, 1, 1))
    assert asyncio.run(views.image(ref, 11, 1, 1)) == local
    objects.write_bytes(uri, slide_path.read_bytes() + b" ")
    with pytest.raises(SlideError) as caught:  # also of the slide that is open
        asyncio.run(views.image(ref, 11, 2, 0))
    assert caught.value.reason == "changed"


def scored_tiles(rows: list[tuple[int, int, float | None]], side: int = 100) -> pa.Table:
    """Rows of `TILE_SCORES`: x, y and score."""
    common = {"slide_id": "s", "tissue_fraction": 1.0, "band": "tissue"}
    return pa.Table.from_pylist(
        [
            common
            | {"tile_id": f"{x}_{y}", "x_level0_px": x, "y_level0_px": y, "width_level0_px": side}
            | {"height_level0_px": side, "score": score, "error": None if score is not None else "broken"}
            for x, y, score in rows
        ],
        schema=TILE_SCORES,
    )


SCALE = HeatScale(low=0.0, high=1.0)


def test_heat_has_the_colours_of_the_report_where_the_tiles_are() -> None:
    table = HeatTable(scored_tiles([(100, 0, 1.0), (150, 0, 0.5), (600, 0, 0.0)]), SIZE)
    picture = table.picture(SCALE, 11, 0, 0)
    assert picture is not None
    assert picture.shape == (512, 512, 4)
    assert (picture[:100, :100, 3] == 0).all()
    dark, middle = colour(np.array([[1.0, 0.5]]), low=0, high=1)[0]
    assert (picture[:100, 100:200, :3] == dark).all()  # the higher score is seen
    assert (picture[:100, 100:200, 3] == round(TINT[1] * 255)).all()
    assert (picture[:100, 200:250, :3] == middle).all()
    assert (picture[100:, :, 3] == 0).all()
    assert table.picture(SCALE, 11, 0, 1) is None
    assert table.picture(SCALE, 11, 9, 9) is None
    assert table.picture(SCALE, 12, 0, 0) is None


@pytest.mark.parametrize("level", [10, 9, 8, 6, 3])
def test_heat_lies_where_the_report_has_it_at_every_level(level: int) -> None:
    rng = np.random.default_rng(1)
    rows = [(int(x), int(y), float(s)) for x, y, s in zip(*rng.integers(0, 800, (2, 60)), rng.random(60), strict=True)]
    table, scale = HeatTable(scored_tiles(rows, side=37), SIZE), scale_of(SIZE, level)
    shown = tile_size(SIZE, level, 0, 0)
    picture = table.picture(SCALE, level, 0, 0)
    assert shown is not None
    assert picture is not None
    grey = np.full((shown[1], shown[0], 3), 128, np.uint8)
    covered = (shown[0] * scale, shown[1] * scale)
    whole = heatmap(grey, scored_tiles(rows, side=37), level0_size=covered, low=0, high=1, threshold=None)
    plain = heatmap(grey, scored_tiles([]), level0_size=SIZE, low=0, high=1, threshold=None)
    opacity = picture[..., 3:] / 255
    mixed = plain * (1 - opacity) + picture[..., :3] * opacity
    assert np.abs(mixed - whole).max() <= 1.5


def test_a_threshold_hides_what_scores_less_and_no_unreadable_tile() -> None:
    table = HeatTable(scored_tiles([(0, 0, 0.2), (100, 0, 0.8), (200, 0, None), (300, 0, math.nan)]), SIZE)
    picture = table.picture(replace(SCALE, threshold=0.5), 11, 0, 0)
    assert picture is not None
    assert (picture[:100, :100, 3] == 0).all()
    assert (picture[:100, 100:200, 3] > 0).all()
    hatched = picture[5:95, 205:295]
    assert {tuple(each) for each in hatched.reshape(-1, 4).tolist()} == {(0, 0, 0, 255), (255, 255, 255, 255)}
    assert (picture[99, 200:400] == (0, 70, 160, 255)).all()


def test_cells_are_half_of_the_colour() -> None:
    tiles = scored_tiles([(0, 0, 0.0)], side=512)
    cells = np.zeros((1, 2, 2), np.float32)
    cells[0, :, 1] = 1
    table = HeatTable(with_cells(tiles, cells), SIZE)
    picture = table.picture(replace(SCALE, cells=(0.25, 0.75)), 11, 0, 0)
    assert picture is not None
    pale, middle = colour(np.array([[0.0, 0.5]]), low=0, high=1)[0]
    assert (picture[:, :100, :3] == pale).all()
    assert (picture[:, 412:, :3] == middle).all()
    without = table.picture(SCALE, 11, 0, 0)
    assert without is not None
    assert (without[..., :3] == pale).all()


def test_half_a_million_tiles_are_painted_at_once() -> None:
    side = 720
    x, y = (np.indices((side, side)) * 100).reshape(2, -1)
    columns: dict[str, Any] = {name: pa.array(v) for name, v in (("x_level0_px", x), ("y_level0_px", y))}
    columns |= {f"{name}_level0_px": pa.array(np.full(side**2, 100)) for name in ("width", "height")}
    columns["score"] = pa.array(np.linspace(0, 1, side**2))
    table = HeatTable(pa.table(columns), (72_000, 72_000))
    for level, step in ((17, 1), (9, 256), (8, 512)):
        picture = table.picture(SCALE, level, 0, 0)
        assert picture is not None
        assert (picture[..., 3] > 0).all()
        assert scale_of((72_000, 72_000), level) == step


def tiles_ref(folder: Path, table: pa.Table, name: str = "t") -> TilesRef:
    pq.write_table(table, folder / f"{name}.parquet")
    return TilesRef(str(folder / f"{name}.parquet"), "v1", SIZE, "key")


def test_a_point_finds_its_tile_and_its_place_among_the_others(
    views: SlideViews, slide_path: Path, image: Picture, tmp_path: Path
) -> None:
    rows = [(0, 0, 0.1), (100, 0, 0.2), (150, 0, 0.9), (300, 300, None)]
    ref, spec = ref_of(slide_path), TileSpec(mpp=0.5, tile_px=100)
    table = tiles_ref(tmp_path, scored_tiles(rows))
    for point, tile_id, above in (((199, 99), "150_0", 2 / 3), ((100, 0), "100_0", 1 / 3), ((0, 0), "0_0", 0.0)):
        (found,) = asyncio.run(views.at(ref, [table], spec, *point))
        assert found is not None
        assert (found.row["tile_id"], found.above) == (tile_id, pytest.approx(above))
    assert found.pixels is not None
    assert np.abs(found.pixels.astype(int) - image[:100, :100]).mean() < 2.5
    (unread,) = asyncio.run(views.at(ref, [table], spec, 310, 310))
    assert unread is not None
    assert (unread.above, unread.row["error"]) == (None, "broken")
    assert asyncio.run(views.at(ref, [table, table], spec, 250, 0)) == [None, None]
    (untold,) = asyncio.run(views.at(ref, [table], None, 0, 0))
    assert untold is not None
    assert untold.pixels is None
    assert "version" in str(untold.why)


@pytest.mark.parametrize("is_normalised", [False, True])
def test_pixels_are_those_that_the_reader_hands_to_the_detector(
    views: SlideViews, tmp_path: Path, is_normalised: bool
) -> None:
    write_archive(tmp_path, n_slides=1, n_lesion=0, seed=1, size_px=700, mpp=1)
    row = SlideRow("s", str(tmp_path / "phantom_000.tif"), Mpp(1.0))
    with open_slide(row.uri, slide_id="s", mpp=1.0) as slide:
        image, mpp = thumbnail(slide)
    reference = fit_stain(image // 2 + 60, StainConfig(), mask=tissue_mask(image, mpp))
    stain = StainConfig(reference=reference) if is_normalised else None
    spec = TileSpec(mpp=1, tile_px=48, stain=stain)
    part = next(iter(read_slide(0, row, spec)))
    tiles = from_ipc(part["tiles"][0].as_py())
    pixels = np.frombuffer(pixels_of(part), np.uint8).reshape(-1, 48, 48, 3)
    for number in (0, len(tiles) // 2):
        x, y = (tiles[f"{name}_level0_px"][number].as_py() for name in "xy")
        table = tiles_ref(tmp_path, scored_tiles([(x, y, 1.0)], side=48), name=str(number))
        (found,) = asyncio.run(views.at(ref_of(row.uri, mpp=1), [table], spec, x, y))
        assert found is not None
        np.testing.assert_array_equal(found.pixels, pixels[number])
    masked = replace(ref_of(row.uri, mpp=1), has_mask=True)
    (found,) = asyncio.run(views.at(masked, [table], spec, x, y))
    assert found is not None
    assert (found.pixels is None) == is_normalised


def test_a_table_that_is_not_there_is_said_so(views: SlideViews, tmp_path: Path) -> None:
    table = TilesRef(str(tmp_path / "no.parquet"), "v", SIZE, "key")
    with pytest.raises(NotFoundError):
        asyncio.run(views.heat(table, None, 8, 0, 0))
    with pytest.raises(NotFoundError):
        asyncio.run(views.scores(table))


def test_a_slide_without_a_calibration_is_painted_by_its_own_scores(views: SlideViews, tmp_path: Path) -> None:
    table = tiles_ref(tmp_path, scored_tiles([(x, 0, x / 500) for x in range(0, 500, 100)]))
    unknown = asyncio.run(views.heat(table, HeatScale(math.nan, math.nan), 11, 0, 0))
    assert unknown == asyncio.run(views.heat(table, None, 11, 0, 0))
    picture = cv2.imdecode(np.frombuffer(unknown, np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (512, 512, 4)
    assert (picture[50, 450, :3].astype(int) < picture[50, 50, :3]).all()
    nothing = asyncio.run(views.heat(table, None, 11, 0, 1))
    assert cv2.imdecode(np.frombuffer(nothing, np.uint8), cv2.IMREAD_UNCHANGED).max() == 0
    with pytest.raises(NotFoundError):
        asyncio.run(views.heat(table, None, 11, 0, 2))
