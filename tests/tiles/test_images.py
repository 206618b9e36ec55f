"""Every way in which an image file can hold colours, by the one decoder; and what it refuses before it allocates."""

import io
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from uadray.tiles.images import MAX_SCANS, ImageError, centre_tile, decode, size_px

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
SMOOTH = np.array(Image.fromarray(RGB).resize((90, 60)))


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def turned(orientation: int, kind: str, pixels: np.ndarray = RGB, **options: Any) -> bytes:
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    return saved(image, kind, exif=exif, **options)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(header: bytes, rows: bytes, *others: bytes) -> bytes:
    whole = [chunk(b"IHDR", header), *others, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_what_is_lossless_is_exact(kind: str) -> None:
    np.testing.assert_array_equal(decode(saved(Image.fromarray(RGB), kind)), RGB)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_grey_is_the_same_in_all_three_channels(kind: str) -> None:
    grey = Image.fromarray(SMOOTH).convert("L")
    found = decode(saved(grey, kind))
    assert found.shape == (60, 90, 3)
    assert (found[..., 0] == found[..., 1]).all()
    np.testing.assert_allclose(found[..., 0].astype(int), np.asarray(grey), atol=40 if kind == "JPEG" else 0)


def test_black_and_white() -> None:
    found = decode(saved(Image.fromarray(RGB).convert("1")))
    assert set(np.unique(found)) == {0, 255}


def test_sixteen_bits_keep_their_upper_eight() -> None:
    values = np.random.default_rng(1).integers(0, 2**16, (6, 9), dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        found = decode(saved(Image.fromarray(values), kind))
        np.testing.assert_array_equal(found, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, 2))
    colours = np.random.default_rng(2).integers(0, 2**16, (6, 9, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in colours)
    np.testing.assert_array_equal(decode(png(struct.pack(">IIBBBBB", 9, 6, 16, 2, 0, 0, 0), rows)), colours >> 8)


def test_a_palette_and_cmyk() -> None:
    palette = Image.fromarray(RGB).quantize(16)
    np.testing.assert_array_equal(decode(saved(palette)), np.asarray(palette.convert("RGB")))
    found = decode(saved(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=100))
    np.testing.assert_allclose(found.astype(int), SMOOTH, atol=12)


def _clear(mode: str) -> bytes:
    """A PNG whose upper half is transparent and whose lower half is black."""
    alpha = Image.fromarray(np.repeat(np.array([0, 255], np.uint8), [20, 20])[:, None].repeat(40, 1))
    match mode:
        case "RGBA" | "LA":
            image = Image.new(mode[:-1], (40, 40))
            image.putalpha(alpha)
            return saved(image)
        case "palette":
            return saved(alpha.point(lambda v: v // 255).convert("P"), transparency=0)
        case "grey 16":
            image = Image.fromarray(np.where(np.asarray(alpha) == 0, 777, 0).astype(np.uint16))
            rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.asarray(image))
            return png(struct.pack(">IIBBBBB", 40, 40, 16, 0, 0, 0, 0), rows, chunk(b"tRNS", struct.pack(">H", 777)))
        case "key":
            image = Image.new("RGB", (40, 40))
            image.paste((1, 2, 3), (0, 0, 40, 20))
            return saved(image, transparency=(1, 2, 3))
    raise AssertionError(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "key", "palette", "grey 16"])
def test_what_is_transparent_is_white(mode: str) -> None:
    found = decode(_clear(mode))
    assert (found[:20] == 255).all()
    assert found[20:].max() <= 1


def test_half_transparent_is_half_white() -> None:
    assert (decode(saved(Image.new("RGBA", (2, 2), (0, 0, 0, 128)))) == 127).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_every_orientation_is_turned_upright(kind: str) -> None:
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    pixels = SMOOTH[:, :70]
    upright = decode(turned(1, kind, pixels, **options)).astype(int)
    turns = {
        2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, -1), 7: np.rot90(upright, 2).transpose(1, 0, 2), 8: np.rot90(upright),
    }  # fmt: skip
    for orientation, expected in turns.items():
        np.testing.assert_array_equal(decode(turned(orientation, kind, pixels, **options)), expected)
    assert sorted(size_px(turned(6, kind, pixels, **options))) == [60, 70]  # some headers are read upright
    np.testing.assert_array_equal(decode(turned(99, kind, pixels, **options)), upright)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_of_32_bits_are_refused(mode: str) -> None:
    with pytest.raises(ImageError, match="32 bits; expected 8 or 16"):
        decode(saved(Image.fromarray(RGB).convert("L").convert(mode), "TIFF"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_what_breaks_off_is_refused(kind: str) -> None:
    data = saved(Image.fromarray(SMOOTH), kind)
    for kept in (len(data) // 2, len(data) - 100):
        with pytest.raises(ImageError):
            decode(data[:kept])


@pytest.mark.parametrize("data", [b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a" + bytes(40)])
def test_other_formats_are_not_tried(data: bytes) -> None:
    with pytest.raises(ImageError, match="not an image that can be decoded; expected JPEG, PNG, TIFF"):
        decode(data)
    with pytest.raises(ImageError, match=r"expected PNG$"):
        size_px(saved(Image.fromarray(RGB), "JPEG"), formats=("PNG",))


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_an_image_that_claims_too_many_pixels_is_not_decoded(side: int) -> None:
    bomb = png(struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), b"")
    with pytest.raises(ImageError, match="pixels"):
        decode(bomb)
    with pytest.raises(ImageError, match="9 x 6 px, at most 53 pixels"):
        decode(saved(Image.fromarray(RGB)), max_px=53)


def test_a_progressive_jpeg_of_endless_scans_is_not_decoded() -> None:
    data = saved(Image.fromarray(SMOOTH), "JPEG", progressive=True)
    assert decode(data).shape == (60, 90, 3)
    endless = data[:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00" * MAX_SCANS + b"\xff\xd9"
    with pytest.raises(ImageError, match="more than 100 scans"):
        decode(endless)


def test_the_first_of_several_images_is_taken() -> None:
    image = Image.fromarray(SMOOTH)
    data = saved(image, "MPO", save_all=True, append_images=[Image.new("RGB", (90, 60))])
    np.testing.assert_array_equal(decode(data), decode(saved(image, "JPEG")))
    data = saved(image, "TIFF", save_all=True, append_images=[Image.new("RGB", (90, 60))])
    np.testing.assert_array_equal(decode(data), SMOOTH)


def test_whatever_bytes_come_there_are_pixels_or_an_image_error() -> None:
    rng = np.random.default_rng(3)
    wholes = [saved(Image.fromarray(RGB), kind) for kind in ("PNG", "JPEG", "TIFF", "BMP", "WEBP")] + [
        _clear("palette")
    ]
    began = time.perf_counter()
    refused = 0
    for turn in range(300):
        data = bytearray(wholes[turn % len(wholes)])
        for _ in range(rng.integers(1, 6)):
            data[rng.integers(len(data))] = rng.integers(256)
        try:
            assert decode(bytes(data)).dtype == np.uint8
        except ImageError:
            refused += 1
    assert 100 < refused < 300
    assert time.perf_counter() - began < 20


def test_a_larger_image_is_cropped_to_its_centre_and_a_smaller_one_refused() -> None:
    pixels = np.arange(7 * 10 * 3, dtype=np.uint8).reshape(7, 10, 3)
    np.testing.assert_array_equal(centre_tile(pixels, 4), pixels[1:5, 3:7])
    np.testing.assert_array_equal(centre_tile(pixels[:, :7], 7), pixels[:, :7])
    with pytest.raises(ImageError, match="10 x 7 px, the bundle needs 8 px"):
        centre_tile(pixels, 8)
