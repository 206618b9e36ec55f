"""Tiled TIFFs read here: the pixels of OpenSlide, each file tile decoded about once."""

from pathlib import Path

import numpy as np
import pytest
from slides.tiff_files import page, picture
from slides.tiff_twins import KINDS, MPP, open_by_openslide, open_fast, whole_grid, write_tiff

from uadray.errors import SlideError
from uadray.phantoms.archive import write_archive
from uadray.phantoms.pyramid import write_pyramid
from uadray.schemas import TILES
from uadray.slides.opening import open_slide
from uadray.slides.openslide import OpenSlideSlide
from uadray.slides.thumbnail import thumbnail
from uadray.slides.tiff.jpeg import TileDecoder
from uadray.slides.tile_reading import read_tile, reading_order, tile_places
from uadray.tiles.chunks import read_chunk, read_chunks
from uadray.tiles.spec import TileSpec


def assert_twins(path: Path, mpp: float | None = None) -> None:
    """What both say of the slide, each level whole, and regions over edges and outside."""
    with open_fast(path, mpp=mpp) as fast, open_by_openslide(path, mpp) as slow:
        for what in ("mpp", "level_sizes_px", "downsamples", "tile_sizes_px"):
            assert getattr(fast, what) == getattr(slow, what), what
        for level, (width, height) in enumerate(fast.level_sizes_px):
            whole = fast.read_region(level, 0, 0, width, height)
            np.testing.assert_array_equal(whole, slow.read_region(level, 0, 0, width, height))
            for box in ((-5, -7, 40, 30), (width - 9, height - 8, 20, 20), (width // 3, height // 3, 33, 17)):
                x, y, w, h = box
                canvas = np.full((height + 60, width + 60, 3), 255, np.uint8)
                canvas[30 : 30 + height, 30 : 30 + width] = whole
                expected = canvas[30 + y : 30 + y + h, 30 + x : 30 + x + w]
                np.testing.assert_array_equal(fast.read_region(level, *box), expected)
                out = np.zeros((h, w, 3), np.uint8)
                assert fast.read_region(level, *box, out=out) is out
                np.testing.assert_array_equal(out, expected)
            assert (fast.read_region(level, width + 3, 0, 8, 8) == 255).all()


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "small.svs"])
def test_real_svs(data_dir: Path, name: str) -> None:
    """Aperio: components are RGB, not YCbCr; thumbnail, label and macro are no levels."""
    assert_twins(data_dir / "wsi" / name)


@pytest.mark.parametrize("pattern", ["normal_train/*.tif", "test/*.tif"])
def test_real_mosaics(data_dir: Path, pattern: str) -> None:
    assert_twins(sorted((data_dir / "mosaics").glob(pattern))[0])


@pytest.mark.parametrize("name", ["tcga-cr-7395-01a-01-ts1.svs", "jpeg.dicom", "boxes_0.dcm"])
def test_other_kinds_go_by_openslide(data_dir: Path, name: str) -> None:
    with open_slide(data_dir / "wsi" / name, slide_id=name, mpp=0.5) as slide:
        assert isinstance(slide, OpenSlideSlide)


def test_real_deflate(data_dir: Path) -> None:
    """A TIFF of deflate tiles, four levels, without a pixel size."""
    assert_twins(data_dir / "wsi" / "boxes.tiff", mpp=0.5)


def test_phantoms(tmp_path: Path) -> None:
    write_archive(tmp_path, n_slides=1, n_lesion=1, seed=1, size_px=512, mpp=0.5)
    assert_twins(tmp_path / "phantom_000.tif")


@pytest.mark.parametrize("shared_tables", [True, False])
def test_tables_shared_or_in_each_tile(tmp_path: Path, shared_tables: bool) -> None:
    path = write_pyramid(tmp_path / "s.tif", picture(150, 210), mpp=0.3, tile_px=48, shared_tables=shared_tables)
    assert_twins(path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(tmp_path: Path, kind: str) -> None:
    assert_twins(write_tiff(tmp_path / "s.tif", **KINDS[kind]()))


def test_big_endian_is_the_same(tmp_path: Path) -> None:
    """OpenSlide 4.0.1 takes big-endian BigTIFF alone; ours is compared with the little-endian file."""
    pages = [page(picture(100, 140), **MPP), page(picture(50, 70), reduced=True)]
    paths = [write_tiff(tmp_path / f"{i}.tif", pages, order=order) for i, order in enumerate("<>")]
    with open_fast(paths[0]) as little, open_fast(paths[1]) as big:
        assert (little.mpp, little.level_sizes_px) == (big.mpp, big.level_sizes_px)
        for level, (width, height) in enumerate(big.level_sizes_px):
            np.testing.assert_array_equal(*(s.read_region(level, 0, 0, width, height) for s in (little, big)))


def test_a_missing_tile_is_white_as_openslide_has_it(tmp_path: Path) -> None:
    whole = page(picture(100, 200), **MPP)
    whole.tiles[1] = b""
    path = write_tiff(tmp_path / "s.tif", [whole])
    assert_twins(path)
    with open_fast(path) as slide:
        assert (slide.read_region(0, 64, 0, 64, 64) == 255).all()


def test_errors_name_slide_file_and_what_to_do(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "s.tif", [page(picture(200, 200), **MPP)])
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(SlideError, match=r"slide a: .*s\.tif is damaged: .* was it copied whole") as caught:
        open_slide(path, slide_id="a")
    assert caught.value.reason == "unreadable"
    path = write_tiff(tmp_path / "n.tif", [page(picture(64, 64))])
    with pytest.raises(SlideError, match="manifest's mpp column") as caught:
        open_slide(path, slide_id="a")
    assert caught.value.reason == "no_mpp"


def test_a_file_that_is_written_to_fails_whole(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "s.tif", picture(512, 512), mpp=1.0, tile_px=64)
    spec = TileSpec(mpp=1.0, tile_px=64)
    with open_fast(path) as slide:
        tiles = whole_grid(slide, spec)
        read_chunk(slide, tiles.slice(0, 3), spec=spec)
        with path.open("r+b") as file:
            file.write(b"II*")
        with pytest.raises(SlideError) as caught:
            read_chunk(slide, tiles.slice(10), spec=spec)
    assert caught.value.reason == "changed"


def test_another_version_than_the_one_that_is_meant_is_refused(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "s.tif", picture(64, 64), mpp=1.0, tile_px=64)
    with pytest.raises(SlideError) as caught:
        open_slide(path, slide_id="s", etag="another")
    assert caught.value.reason == "changed"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts what is decoded."""
    counts: list[int] = []
    whole = TileDecoder.decode

    def counted(self: TileDecoder, data: bytes, out: np.ndarray | None = None) -> np.ndarray:
        counts.append(len(data))
        return whole(self, data, out)

    monkeypatch.setattr(TileDecoder, "decode", counted)
    return counts


def test_a_grid_across_file_tiles_decodes_each_about_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    """40 px tiles at 1.3 times level 0's mpp, over file tiles of 32 px; 48 are kept, and a row has 60."""
    monkeypatch.setattr("uadray.slides.tile_reading.DECODED_BYTES", 48 * 32 * 32 * 3)
    monkeypatch.setattr("uadray.slides.tiff.decoded_tiles.DECODED_BYTES", 48 * 32 * 32 * 3)
    path = write_pyramid(tmp_path / "s.tif", picture(640, 1920), mpp=1.0, tile_px=32, downsamples=())
    spec = TileSpec(mpp=1.3, tile_px=40)
    with open_fast(path) as slide:
        tiles = whole_grid(slide, spec)
        x, y = (tiles[name].to_numpy() for name in ("x_level0_px", "y_level0_px"))
        order = reading_order(slide, x, y, mpp=1.3, tile_px=40)
        assert sorted(order.tolist()) == list(range(len(tiles)))
        rows = list(read_chunks(slide, tiles, spec=spec))
        by_rows = len(decoded)
        decoded.clear()
    with open_fast(path) as slide:
        strips = list(read_chunks(slide, tiles.take(order), spec=spec))
    assert by_rows > 1.3 * 1200
    assert len(decoded) < 1.2 * 1200
    pixels = np.concatenate([chunk.pixels for chunk in rows])
    np.testing.assert_array_equal(np.concatenate([chunk.pixels for chunk in strips]), pixels[order])
    assert len(tiles.schema) == len(TILES)


def test_what_is_not_needed_again_is_not_kept(tmp_path: Path, decoded: list[int]) -> None:
    path = write_pyramid(tmp_path / "s.tif", picture(256, 256), mpp=1.0, tile_px=64, downsamples=())
    spec = TileSpec(mpp=1.0, tile_px=64)
    with open_fast(path) as slide:
        chunks = list(read_chunks(slide, whole_grid(slide, spec), spec=spec))
        assert slide._decoded._bytes == 0
        assert len(decoded) == 16
        again = read_chunk(slide, whole_grid(slide, spec), spec=spec)
    np.testing.assert_array_equal(chunks[0].pixels, again.pixels)


def test_tiles_are_openslides_resampled_alike(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "s.tif", picture(300, 400), mpp=0.25, tile_px=64, downsamples=(2, 4))
    with open_fast(path) as fast, open_by_openslide(path) as slow:
        for mpp in (0.25, 0.3, 0.5, 0.77, 1.4):
            a, b = (read_tile(s, x_level0_px=13, y_level0_px=150, mpp=mpp, tile_px=40) for s in (fast, slow))
            if mpp in (0.25, 0.3):  # OpenSlide interpolates where a coarser level's pixel is asked for in between
                np.testing.assert_array_equal(a, b)
        for a, b in zip(thumbnail(fast), thumbnail(slow), strict=True):
            np.testing.assert_array_equal(a, b)


def test_places_say_what_needs_no_resampling(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "s.tif", picture(128, 128), mpp=0.5, tile_px=64, downsamples=(2,))
    with open_fast(path) as slide:
        places = tile_places(slide, [0, 3, 4], [0, 0, 8], mpp=1.0, tile_px=32)
    assert places.exact.tolist() == [True, False, True]
    assert places.boxes.tolist() == [[0, 0, 32, 32], [1, 0, 33, 32], [2, 4, 32, 32]]
