"""Headers that lie: refused in a moment, with a named reason, before anything of the claimed size is allocated."""

import os
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from slides.tiff_files import LONG, LONG8, SHORT, Page, Value, build, page, picture, resolution

from uadray.errors import SlideError
from uadray.phantoms.pyramid import write_pyramid
from uadray.slides.opening import open_slide
from uadray.slides.tiff.byte_source import open_source
from uadray.slides.tiff.opening import index_of, open_tiff

MPP = resolution(0.5)
PEAK_BYTES = 16 * 2**20
BILLION_PX = 31_623 * 64  # 31,623 x 31,623 tiles are a billion


def _page(**claims: Value) -> Page:
    whole = page(picture(128, 128), **MPP)
    whole.claims = {int(name[1:]): value for name, value in claims.items()}
    return whole


def _square(side_px: int, tiles: int, at: int) -> Page:
    count = (LONG8, [tiles, at])
    return _page(t256=(LONG, [side_px]), t257=(LONG, [side_px]), t324=count, t325=count)


CASES: dict[str, Callable[[], bytes]] = {
    "10^9 tiles, arrays beyond the file": lambda: build([_square(BILLION_PX, 31_623**2, 16)], big=True),
    "10^9 tiles, and few in the arrays": lambda: build([_page(t256=(LONG, [BILLION_PX]), t257=(LONG, [BILLION_PX]))]),
    "more offsets than tiles": lambda: build([_page(t324=(LONG, [8, 8, 8, 8, 8]), t325=(LONG, [9, 9, 9, 9, 9]))]),
    "fewer lengths than offsets": lambda: build([_page(t325=(LONG, [9, 9]))]),
    "offsets beyond the file": lambda: build([_page(t324=(LONG, [8, 8, 8, 4_000_000_000]))]),
    "offsets that overflow": lambda: build([_page(t324=(LONG8, [8, 8, 8, 2**63 + 8]))], big=True),
    "lengths beyond the file": lambda: build([_page(t325=(LONG, [9, 9, 9, 4_000_000_000]))]),
    "lengths that overflow": lambda: build([_page(t325=(LONG8, [9, 9, 9, 2**63 - 4]))], big=True),
    "tiles of 65,536 px": lambda: build([_page(t322=(LONG, [65_536]), t323=(LONG, [65_536]))]),
    "tiles of no size": lambda: build([_page(t322=(LONG, [0]), t323=(LONG, [0]))]),
    "a slide of no size": lambda: build([_page(t256=(LONG, [0]))]),
    "offsets that are text": lambda: build([_page(t324=(2, b"abcd\0"), t325=(2, b"abcd\0"))]),
    "tables that are none": lambda: build([_page(t347=(7, b"no tables"))]),
    "directories in a circle": lambda: build([_page(), page(picture(64, 64), reduced=True)], circle=True),
    "half a file": lambda: build([_page(), page(picture(64, 64), reduced=True)])[:-200],
}


@pytest.mark.parametrize("case", CASES)
def test_refused_with_bounded_memory(tmp_path: Path, case: str) -> None:
    path = tmp_path / "s.tif"
    path.write_bytes(CASES[case]())
    tracemalloc.start()
    start = time.monotonic()
    try:
        with pytest.raises(SlideError) as caught:
            open_slide(path, slide_id="s")
        assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES
    finally:
        tracemalloc.stop()
    assert caught.value.reason == "unreadable"
    assert "is damaged" in str(caught.value)
    assert time.monotonic() - start < 20


LIMITS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "tables": ("JPEG tables are longer than 64 KiB", lambda: build([_page(t347=(7, b"\0" * 70_000))])),
    "directories": (
        "more than 256 directories",
        lambda: build([_page(), *[Page({254: (SHORT, [1])}, []) for _ in range(300)]]),
    ),
    "tiles": (
        "tiles are 16384 x 16384 px, and those of up to 80,000,000 px are decoded; save it with smaller ones",
        lambda: build([_page(t322=(LONG, [16_384]), t323=(LONG, [16_384]), t324=(LONG, [8]), t325=(LONG, [9]))]),
    ),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_of_ours_is_not_called_damage(tmp_path: Path, limit: str) -> None:
    message, built = LIMITS[limit]
    path = tmp_path / "s.tif"
    path.write_bytes(built())
    with pytest.raises(SlideError, match=message) as caught:
        open_slide(path, slide_id="s")
    assert caught.value.reason == "too_large"
    assert "damaged" not in caught.value.message


def test_10_to_the_9_tiles_that_really_are_listed(tmp_path: Path) -> None:
    """A sparse file of 20 GB takes no room on the disk, and its arrays do lie within it."""
    path = tmp_path / "s.tif"
    path.write_bytes(build([_square(BILLION_PX, 31_623**2, 2**20)], big=True))
    os.truncate(path, 20 * 2**30)
    tracemalloc.start()
    with pytest.raises(SlideError, match="has 1,000,014,129 tiles; 4,000,000 are read"):
        open_slide(path, slide_id="s")
    assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES
    tracemalloc.stop()


BOMB = """
import resource, sys
import numpy as np
from uadray.errors import SlideError
from uadray.slides.opening import open_slide
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, used + 2**29))
with open_slide(sys.argv[1], slide_id="s") as slide:
    for x in (0, 64):
        try:
            print(slide.read_region(0, x, 0, 64, 64).shape)
        except SlideError as error:
            print(error.reason, error.message)
"""


def test_a_jpeg_that_claims_other_dimensions_is_not_decoded(tmp_path: Path) -> None:
    """65,500 x 65,500 px would be 12 GB; in a process that may have 512 MB more, its neighbour is read all the same."""
    whole = _page()
    bomb = bytearray(whole.tiles[1])
    at = bomb.index(b"\xff\xc0")
    bomb[at + 5 : at + 9] = struct.pack(">HH", 65_500, 65_500)
    whole.tiles[1] = bytes(bomb)
    path = tmp_path / "s.tif"
    path.write_bytes(build([whole]))
    done = subprocess.run([sys.executable, "-c", BOMB, path], capture_output=True, text=True, check=True, timeout=120)
    first, second = done.stdout.splitlines()
    assert first == "(64, 64, 3)"
    assert second.startswith("unreadable pixels at (64, 0) cannot be read: JPEG of 65500 x 65500 px")


def test_a_progressive_jpeg_of_endless_scans_is_not_decoded(tmp_path: Path) -> None:
    """A frame called progressive, and 600 scans after it, which would be gone through one by one."""
    whole = _page()
    tile = whole.tiles[0].replace(b"\xff\xc0", b"\xff\xc2", 1)
    whole.tiles[0] = tile[:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00" * 600 + b"\xff\xd9"
    path = tmp_path / "s.tif"
    path.write_bytes(build([whole]))
    with open_slide(path, slide_id="s") as slide:
        with pytest.raises(SlideError, match="more than 500 scans"):
            slide.read_region(0, 0, 0, 64, 64)
        assert slide.read_region(0, 64, 64, 64, 64).std() > 0


@pytest.mark.parametrize("damage", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\xff\xff", b"\0" * 90])
def test_a_damaged_tile_costs_itself_alone(tmp_path: Path, damage: bytes) -> None:
    whole = _page()
    kept = whole.tiles[2]
    whole.tiles[1] = damage + b"\xff" * (damage == b"")
    path = tmp_path / "s.tif"
    path.write_bytes(build([whole]))
    with open_slide(path, slide_id="s") as slide:
        with pytest.raises(SlideError, match="cannot be read") as caught:
            slide.read_region(0, 64, 0, 64, 64)
        assert caught.value.reason == "unreadable"
        assert slide.read_region(0, 0, 64, 64, 64).std() > 0
        assert kept


def test_a_jpeg_header_of_endless_segments_costs_itself_alone(tmp_path: Path) -> None:
    """Comments of no length, and bytes that fill: each is a step."""
    path = tmp_path / "s.tif"
    for filling in (b"\xff\xfe\x00\x02" * 5_000, b"\xff" * 20_000):
        whole = _page()
        whole.tiles[0] = whole.tiles[0][:2] + filling + whole.tiles[0][2:]
        path.write_bytes(build([whole]))
        with open_slide(path, slide_id="s") as slide:
            with pytest.raises(SlideError, match="more than 1000 segments"):
                slide.read_region(0, 0, 0, 64, 64)
            assert slide.read_region(0, 64, 64, 64, 64).std() > 0


DESCRIPTIONS = {
    "an element that never ends": "<OME>" + "<Pixels " * 5000,
    "attributes that never end": "<OME><Pixels " + 'a="' * 13_000 + ">",
    "a name that never ends": "<OME><Pixels " + "a" * 40_000 + ">",
    "many equals signs": "<OME><Pixels " + "a = " * 10_000 + ">",
    "a prefix that never ends": "<OME>" + "<" + "a:" * 20_000,
    "nothing but brackets": "<OME" + "<" * 40_000,
    "entities that grow": "<!DOCTYPE a ["
    + "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(900))
    + "]><OME>&a900;",
    "Aperio": "Aperio" + "|" * 20_000 + "=" * 20_000,
}


@pytest.mark.parametrize("case", DESCRIPTIONS)
def test_a_description_cannot_hang_its_reader(tmp_path: Path, case: str) -> None:
    """Of the third, 40 kB took 24 to 39 s."""
    path = tmp_path / "s.tif"
    path.write_bytes(build([page(picture(64, 64), t270=(2, DESCRIPTIONS[case].encode() + b"\0"))]))
    start = time.process_time()
    with pytest.raises(SlideError) as caught:
        open_slide(path, slide_id="s")
    assert caught.value.reason == "no_mpp"
    assert time.process_time() - start < 1


def test_any_truncation_and_any_flipped_byte_ends_in_a_slide_or_a_named_error(tmp_path: Path) -> None:
    """Every directory byte is struck by chance; nothing else may escape, and no read may hang."""
    good = write_pyramid(tmp_path / "good.tif", picture(200, 200), mpp=0.5, tile_px=64).read_bytes()
    aperio = build([page(picture(64, 64), t270=(2, b"Aperio|MPP = 0.5\0"))])
    rng = np.random.default_rng(0)
    ends = {"opened": 0, "refused": 0, "left to OpenSlide": 0}
    for i in range(400):
        data = bytearray(aperio if i % 4 == 0 else good)
        if i % 2:
            data = data[: int(rng.integers(len(data)))]
        else:
            for at in rng.integers(len(data) - 700, len(data), 3):
                data[at] = rng.integers(256)
        path = tmp_path / "s.tif"
        path.write_bytes(data)
        ends[_end(path)] += 1
    assert ends["opened"] > 20
    assert ends["refused"] > 100


def _end(path: Path) -> str:
    source = open_source(str(path))
    try:
        index = index_of(source, slide_id="s")
        if index is None or not index.decoded:
            return "left to OpenSlide"
        slide = open_tiff(source, index, slide_id="s", mpp=0.5)
        for level, (width, height) in enumerate(slide.level_sizes_px):
            try:
                slide.read_region(level, 0, 0, min(width, 300), min(height, 300))
            except SlideError as error:
                if error.reason != "unreadable":
                    raise
        return "opened"
    except SlideError as error:
        return "refused" if error.reason in ("unreadable", "too_large", "several_images") else error.reason
    finally:
        source.close()
