"""An .npz of tiles is read as numpy wrote it; whatever else it claims is refused before anything is allocated."""

import io
import struct
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_client import peak_growth_mib

from uadray.serving.tiles.npz_tiles import NpzError, NpzTiles, NpzTooLargeError
from uadray.tiles.images import Pixels

LIMITS = {"tile_px": 8, "max_tiles": 20, "max_image_px": 64, "max_pixels": 20 * 100}


def tiles(n: int = 5, height: int = 9, width: int = 10) -> Pixels:
    return np.random.default_rng(n).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def saved(*, compressed: bool = True, **arrays: Any) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def zipped(files: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def npy(header: str, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    text = (header + "\n").encode()
    return b"\x93NUMPY" + version + struct.pack("<H" if version == b"\1\0" else "<I", len(text)) + text + data


def header(descr: str = "|u1", fortran: bool = False, shape: str = "(5, 9, 10, 3)") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("most", [1, 2, 5, 16])
def test_what_numpy_saves_is_read(compressed: bool, most: int) -> None:
    given_tiles, ids = tiles(), np.array(["a", "", "ü/3", "d", "a"])
    read = NpzTiles(saved(compressed=compressed, tiles=given_tiles, ids=ids), **LIMITS)
    assert read.ids == list(ids)
    assert read.pixels == 5 * 90
    parts = [read.read(most) for _ in range(0, 5, most)]
    np.testing.assert_array_equal(np.concatenate(parts), given_tiles[:, :8, 1:9])
    assert NpzTiles(saved(tiles=given_tiles), **LIMITS).ids == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"tiles": tiles().astype(np.int64)}, "of type <i8; expected uint8"),
        ({"tiles": tiles().astype(np.float32)}, "of type <f4"),
        ({"tiles": tiles().astype(object)}, "of type \\|O"),
        ({"tiles": np.zeros((5, 9, 10, 3), [("a", np.uint8)])}, "header that numpy.save does not write"),
        ({"tiles": tiles()[..., :1]}, "expected \\[N, h, w, 3\\]"),
        ({"tiles": tiles()[0]}, "expected \\[N, h, w, 3\\]"),
        ({"tiles": tiles()[:0]}, "expected \\[N, h, w, 3\\]"),
        ({"tiles": np.asfortranarray(tiles())}, "Fortran order"),
        ({"tiles": tiles(5, 9, 7)}, "7 x 9 px, the bundle needs 8 px"),
        ({"tiles": tiles(21, 8, 8)}, "21 tiles; at most 20"),
        ({"tiles": tiles(1, 8, 65)}, "65 x 8 px, at most 64"),
        ({"tiles": tiles(3, 30, 30)}, "2700 pixels together; at most 2000"),
        ({"tile": tiles()}, "has the array `tiles`"),
        ({"tiles": tiles(), "other": tiles()}, "has the array `tiles`"),
        ({"tiles": tiles(), "ids": np.arange(5)}, "ids: of type <i8"),
        ({"tiles": tiles(), "ids": np.array(["a"] * 4)}, "expected \\(5,\\)"),
        ({"tiles": tiles(), "ids": np.array([["a"] * 5])}, "expected \\(5,\\)"),
        ({"tiles": tiles(), "ids": np.array(["a" * 1025] * 5)}, "at most 1024"),
        ({"tiles": tiles(), "ids": np.array([object()] * 5)}, "ids: of type \\|O"),
        ({"tiles": tiles(), "ids": np.array(["\ud800"] * 5)}, "not an .npz that can be read"),
    ],
)
def test_other_arrays_are_refused(arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(NpzError, match=words):
        NpzTiles(saved(**arrays), **LIMITS)


def test_what_is_too_large_is_told_apart() -> None:
    with pytest.raises(NpzTooLargeError):
        NpzTiles(saved(tiles=tiles(21, 8, 8)), **LIMITS)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ("(5, 9, 10, 3000000000000)", "does not write"),
        ("(999999999, 999999999, 999999999, 3)", "at most"),
        ("(5, 9, 10, -3)", "does not write"),
        ("(1, 1, 1)", "expected"),
        ("(" + "(" * 500 + ")" * 500 + ")", "does not write"),
        ("__import__('os').system('true')", "does not write"),
    ],
)
def test_a_header_is_no_program_and_allocates_nothing(shape: str, words: str) -> None:
    with peak_growth_mib() as growth, pytest.raises(NpzError, match=words):
        NpzTiles(zipped({"tiles.npy": npy(header(shape=shape), b"0" * 100)}), **LIMITS)
    assert growth[0] < 20


def test_bombs_are_not_unpacked() -> None:
    """A gigabyte of zeros in a megabyte; an array that is longer than it says; a directory of many names."""
    zeros = npy(header(shape="(1, 16000, 16000, 3)"), bytes(64 * 2**20))
    longer = npy(header(), tiles().tobytes() + bytes(300 * 2**20))
    many = zipped({f"{i}.npy": b"" for i in range(3000)})
    with peak_growth_mib() as growth:
        with pytest.raises(NpzTooLargeError):
            NpzTiles(zipped({"tiles.npy": zeros}), **LIMITS)
        with pytest.raises(NpzError, match="more arrays"):
            NpzTiles(many, **LIMITS)
    assert growth[0] < 100  # zipping it takes some
    body = zipped({"tiles.npy": longer})
    with peak_growth_mib() as growth, pytest.raises(NpzError, match="longer than its shape says"):
        NpzTiles(body, **LIMITS).read(5)
    assert growth[0] < 20


def test_archives_that_are_damaged_or_odd() -> None:
    good = saved(tiles=tiles())
    for body in (b"", b"PK", good[:-1], good[: len(good) // 2], good + b"x", b"x" * 1000, good[:-2] + b"\1\0x"):
        with pytest.raises(NpzError):
            NpzTiles(body, **LIMITS).read(5)
    array = npy(header(), tiles().tobytes())
    assert len(NpzTiles(zipped({"tiles.npy": array}), **LIMITS).read(5)) == 5
    for kind in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with pytest.raises(NpzError, match="stored or deflated"):
            NpzTiles(zipped({"tiles.npy": array}, kind), **LIMITS)
    with pytest.raises(NpzError, match=r"damaged|broken|EOFError"):
        NpzTiles(zipped({"tiles.npy": array[:-1]}), **LIMITS).read(5)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, 50, 0, 0)
    with pytest.raises(NpzError, match="zip64"):
        NpzTiles(good + b"PK\6\7" + bytes(16) + end, **LIMITS)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=4), st.booleans(), st.booleans())
def test_a_damaged_archive_is_refused_or_read_whole(at: int, put: bytes, cut: bool, compressed: bool) -> None:
    """By its checksum: no tile of an archive that was changed on the way gets a score."""
    expected = tiles(2, 8, 8)
    good = saved(compressed=compressed, tiles=expected, ids=np.array(["a", "b"]))
    at %= len(good)
    body = good[:at] if cut else good[:at] + put + good[at + len(put) :]
    try:
        read = NpzTiles(body, **LIMITS)
        pixels = read.read(len(read.ids))
    except NpzError:
        return
    np.testing.assert_array_equal(pixels, expected)
