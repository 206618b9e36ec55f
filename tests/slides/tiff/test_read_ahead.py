"""The fast path from a real S3 server: the same pixels, little more bytes than needed, one version or none."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from seaweed import SeaweedServer
from slides.tiff_files import ASCII, page, picture
from slides.tiff_files import build as build_tiff

from uadray.bench.proxy import DelayProxy
from uadray.errors import SlideError
from uadray.phantoms.pyramid import write_pyramid
from uadray.slides.opening import open_slide
from uadray.slides.openslide import OpenSlideSlide
from uadray.slides.slide import Slide
from uadray.slides.thumbnail import thumbnail
from uadray.slides.tiff import read_ahead
from uadray.slides.tiff.byte_source import RemoteObject, open_source
from uadray.slides.tiff.index import read_index
from uadray.slides.tiff.read_ahead import touched_tiles
from uadray.slides.tiff.slide import TiffSlide
from uadray.slides.tile_reading import reading_order, tile_places
from uadray.storage import local_copies, objects
from uadray.tiles.chunks import read_chunk, read_chunks
from uadray.tiles.grid import grid
from uadray.tiles.spec import TileSpec

pytestmark = pytest.mark.s3

SPEC = TileSpec(mpp=1.3, tile_px=40)


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.2 MB: 1,024 file tiles of noise, and two further levels."""
    noise = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("slides") / "s.tif"
    return write_pyramid(path, noise, mpp=1.0, tile_px=32, downsamples=(2, 4))


@pytest.fixture
def uri(s3: SeaweedServer, slide_path: Path) -> str:
    uri = f"s3://{s3.bucket}/fast/s.tif"
    objects.write_bytes(uri, slide_path.read_bytes())
    return uri


@pytest.fixture
def counted(s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[DelayProxy]:
    """All reads go through a proxy that counts bytes; round trips of 2 ms."""
    with DelayProxy(s3.port, round_trip_s=0.002) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


def _tiles(slide: Slide, spec: TileSpec = SPEC) -> pa.Table:
    tiles = grid(
        "s", slide.level_sizes_px[0], slide.mpp, np.ones((4, 4), np.bool_), spec.model_copy(update={"min_tissue": 0.0})
    )
    x, y = (tiles[name].to_numpy() for name in ("x_level0_px", "y_level0_px"))
    return tiles.take(reading_order(slide, x, y, mpp=spec.mpp, tile_px=spec.tile_px))


def _fast(uri: str, etag: str | None = None) -> TiffSlide:
    slide = open_slide(uri, slide_id="s", etag=etag)
    assert isinstance(slide, TiffSlide)
    return slide


def _small_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two strips and tens of fetches on a slide of 2 MB."""
    for name in ("FIRST_FETCH_BYTES", "FETCH_BYTES"):
        monkeypatch.setattr(read_ahead, name, 64 * 2**10)
    monkeypatch.setattr(read_ahead, "AHEAD_BYTES", 200 * 2**10)
    monkeypatch.setattr("uadray.tiles.chunks.CHUNK_BYTES", 0)  # 64 tiles, the least
    for module in ("tile_reading", "tiff.decoded_tiles"):
        monkeypatch.setattr(f"uadray.slides.{module}.DECODED_BYTES", 64 * 32 * 32 * 3)


def test_same_pixels_and_no_file_tile_fetched_twice(
    uri: str, slide_path: Path, counted: DelayProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    _small_fetches(monkeypatch)
    asked: list[tuple[int, int]] = []
    read = RemoteObject.read
    monkeypatch.setattr(RemoteObject, "read", lambda self, spans: asked.extend(spans) or read(self, spans))
    with open_slide(slide_path, slide_id="s") as local, _fast(uri) as remote:
        assert (remote.mpp, remote.level_sizes_px, remote.downsamples) == (local.mpp, *_sizes(local))
        tiles = _tiles(local)
        asked.clear()
        before = counted.received
        chunks = zip(read_chunks(local, tiles, spec=SPEC), read_chunks(remote, tiles, spec=SPEC), strict=True)
        for ours, theirs in chunks:
            np.testing.assert_array_equal(ours.pixels, theirs.pixels)
            assert theirs.errors == [None] * len(theirs.errors)
        level = remote._levels[0]
        assert len(asked) == len(set(asked)) == len(level.offsets)
        assert counted.received - before < 1.35 * level.lengths.sum()  # strips lie closer together than on a real slide
        assert (remote._announced is not None, len(remote._announced.ahead._held)) == (True, 0)  # type: ignore[union-attr]


def _sizes(slide: Slide) -> tuple[object, object]:
    return slide.level_sizes_px, slide.downsamples


def test_little_is_read_for_few_scattered_tiles(uri: str, counted: DelayProxy) -> None:
    spec = TileSpec(mpp=1.0, tile_px=32)
    with _fast(uri) as slide:
        tiles = _tiles(slide, spec)
        scattered = tiles.take(np.sort(np.random.default_rng(0).permutation(len(tiles))[:100]))
        x, y = (scattered[name].to_numpy() for name in ("x_level0_px", "y_level0_px"))
        places = tile_places(slide, x, y, mpp=1, tile_px=32)
        before = counted.received
        read = sum(len(chunk.errors) for chunk in read_chunks(slide, scattered, spec=spec))
        assert read == 100
        assert (
            counted.received - before < 1.5 * slide.encoded_bytes(places.level, places.boxes) + 100 * 600
        )  # HTTP headers


def test_the_thumbnail_takes_few_requests(uri: str, slide_path: Path, counted: DelayProxy) -> None:
    with _fast(uri) as slide, open_slide(slide_path, slide_id="s") as local:
        before = counted.received
        image, mpp = thumbnail(slide)
        assert counted.received - before < 1.2 * slide._levels[2].lengths.sum()
        np.testing.assert_array_equal(image, thumbnail(local)[0])
        assert mpp == 4.0


def test_without_announcement_any_region_is_read(uri: str, slide_path: Path) -> None:
    with _fast(uri) as slide, open_slide(slide_path, slide_id="s") as local:
        slide.will_read(0, np.array([[0, 0, 100, 100], [100, 0, 100, 100]]))
        for box in ((3, 500, 200, 150), (0, 0, 100, 100), (-20, 1000, 90, 90), (100, 0, 100, 100), (0, 0, 100, 100)):
            np.testing.assert_array_equal(slide.read_region(0, *box), local.read_region(0, *box))
        np.testing.assert_array_equal(slide.read_region(1, 0, 0, 512, 512), local.read_region(1, 0, 0, 512, 512))


def test_an_object_replaced_while_it_is_read_fails_the_slide(
    uri: str, slide_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same tiles in other colours: no chunk may mix them, and no tile carries the error instead of the slide."""
    _small_fetches(monkeypatch)
    with open_slide(slide_path, slide_id="s") as local, _fast(uri) as slide:
        tiles = _tiles(slide)
        chunks, expected = read_chunks(slide, tiles, spec=SPEC), read_chunks(local, tiles, spec=SPEC)
        np.testing.assert_array_equal(next(chunks).pixels, next(expected).pixels)
        objects.write_bytes(uri, slide_path.read_bytes()[::-1])
        with pytest.raises(SlideError) as caught:  # noqa: PT012
            for chunk, right in zip(chunks, expected, strict=True):
                np.testing.assert_array_equal(chunk.pixels, right.pixels)
                assert chunk.errors == [None] * len(chunk.errors)
        assert caught.value.reason == "changed"
        with pytest.raises(SlideError) as caught:  # unannounced reads too
            read_chunk(slide, tiles.slice(len(tiles) - 9), spec=SPEC)
        assert caught.value.reason == "changed"


def test_one_version_is_meant(uri: str) -> None:
    with _fast(uri, objects.stat(uri).etag):
        pass
    with pytest.raises(SlideError) as caught:
        _fast(uri, "0" * 32)
    assert caught.value.reason == "changed"


def test_missing_in_s3(s3: SeaweedServer) -> None:
    with pytest.raises(SlideError) as caught:
        open_slide(f"s3://{s3.bucket}/none.svs", slide_id="s")
    assert (caught.value.slide_id, caught.value.reason) == ("s", "missing")


def test_a_truncated_upload_is_refused_without_a_copy(s3: SeaweedServer, slide_path: Path, counted: DelayProxy) -> None:
    uri = f"s3://{s3.bucket}/fast/half.tif"
    data = slide_path.read_bytes()
    objects.write_bytes(uri, data[: len(data) * 3 // 4])
    before = counted.received
    with pytest.raises(SlideError, match="was it copied whole") as caught:
        open_slide(uri, slide_id="s")
    assert caught.value.reason == "unreadable"
    assert counted.received - before < 100_000


def test_closing_ends_what_is_fetched(uri: str) -> None:
    slide = _fast(uri)
    next(read_chunks(slide, _tiles(slide), spec=SPEC))
    assert _fetchers()
    slide.close()
    deadline = time.monotonic() + 10
    while _fetchers() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _fetchers() == []


def _fetchers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("uadray-ahead")]


def test_other_formats_are_read_from_a_copy_held_until_closed(s3: SeaweedServer, data_dir: Path) -> None:
    path = data_dir / "wsi" / "tcga-cr-7395-01a-01-ts1.svs"
    uri = f"s3://{s3.bucket}/fast/jpeg2000.svs"
    objects.write_bytes(uri, path.read_bytes())
    with open_slide(uri, slide_id="s", mpp=0.25) as slide:
        assert isinstance(slide, OpenSlideSlide)
        held = slide._path
        assert held.exists()
        expected = open_slide(path, slide_id="s", mpp=0.25).read_region(1, 900, 900, 64, 64)
        np.testing.assert_array_equal(slide.read_region(1, 900, 900, 64, 64), expected)
    with local_copies.local_copy(uri) as again:
        assert again == held


def test_a_slide_of_no_mpp_leaves_no_copy_held(s3: SeaweedServer) -> None:
    uri = f"s3://{s3.bucket}/fast/aperio.svs"
    missing = page(picture(128, 128), t270=(ASCII, b"Aperio\r\n\0"))
    missing.tiles[0] = b""  # left to OpenSlide
    objects.write_bytes(uri, build_tiff([missing]))
    with pytest.raises(SlideError) as caught:
        open_slide(uri, slide_id="s")
    assert caught.value.reason == "no_mpp"


def test_touched_tiles_by_hand(tmp_path: Path) -> None:
    """Level of 3 x 2 tiles of 64 px: a box on all four corners of the first ones, one outside, one over the edge."""
    path = write_pyramid(tmp_path / "s.tif", picture(100, 190), mpp=1.0, tile_px=64, downsamples=())
    source = open_source(str(path))
    index = read_index(source)
    source.close()
    assert index is not None
    boxes = np.array([[60, 60, 8, 8], [500, 0, 9, 9], [-10, 90, 20, 50], [128, 0, 62, 64]])
    box, tile = touched_tiles(index.levels[0], boxes)
    assert list(zip(box.tolist(), tile.tolist(), strict=True)) == [(0, 0), (0, 1), (0, 3), (0, 4), (2, 3), (3, 2)]
