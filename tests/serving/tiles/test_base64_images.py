"""An image in base64 becomes the pixels that a tile set would give, and keeps no more memory than these."""

import base64
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving_client import peak_growth_mib, png_of

from uadray.serving.tiles.base64_images import decode_tile
from uadray.tiles.images import Pixels
from uadray.tilesets.containers import list_tiles, read_tiles


def test_a_tile_does_not_keep_the_image_it_was_cut_from() -> None:
    image = png_of(1024, 1024)
    with peak_growth_mib() as growth:
        tiles = [decode_tile(image, tile_px=40, max_image_px=4096) for _ in range(30)]
    assert growth[0] < 40, "one image has 3 MiB, thirty 90"
    assert all(tile.base is None for tile in tiles)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "CMYK", "turned"])
def test_the_endpoint_and_a_tile_set_see_the_same_pixels(tmp_path: Path, pixels: Pixels, mode: str) -> None:
    """Whatever a file's colours are held in."""
    image, kind, options = Image.fromarray(pixels[0]), "PNG", {}
    match mode:
        case "RGBA" | "LA":
            image = image.convert(mode)
            image.putalpha(Image.fromarray(pixels[1][..., 0]))
        case "P":
            image, options = image.quantize(16), {"transparency": 3}
        case "I;16":
            image = Image.fromarray(pixels[0][..., 0].astype(np.uint16) * 257)
        case "CMYK":
            image, kind = image.convert("CMYK"), "JPEG"
        case "turned":
            exif = image.getexif()
            exif[0x0112] = 6
            kind, options = "JPEG", {"exif": exif}
    path = tmp_path / f"tile.{kind.lower()}"
    image.save(path, kind, **options)
    ((_, batch, _),) = read_tiles(str(tmp_path), list_tiles(str(tmp_path)))
    online = decode_tile(base64.b64encode(path.read_bytes()).decode(), tile_px=40, max_image_px=256)
    np.testing.assert_array_equal(online, batch)
    if mode in ("RGBA", "LA"):
        clear = pixels[1][..., 0] < 8
        assert clear.any()
        assert (online[clear] > 240).all(), "transparent is white"
