"""Tiles of a tile set as rows for the scorers."""

import json
from pathlib import Path

import numpy as np
from image_sets import png, write_zip

from uadray.screening.parts import from_ipc, pixels_of
from uadray.screening.tile_reader import tile_chunks, tile_read_tasks
from uadray.tiles.spec import TileSpec
from uadray.tilesets.containers import list_tiles


def test_tiles_are_cropped_to_their_centre_and_others_are_white_with_an_error(tmp_path: Path) -> None:
    large = np.arange(14 * 12 * 3, dtype=np.uint8).reshape(14, 12, 3)
    files = {"normal/a.png": png(large), "normal/b.png": png(large[:7]), "normal/c.png": b"no image"}
    uri, spec = write_zip(tmp_path, files), TileSpec(mpp=1.0, tile_px=8)
    (chunk,) = tile_chunks(list_tiles(uri), spec)
    (task,) = tile_read_tasks(uri, [chunk], spec)
    (table,) = task()
    (row,) = table.to_pylist()
    tiles = from_ipc(row["tiles"]).to_pylist()
    assert [tile["tile_id"] for tile in tiles] == ["normal/a.png", "normal/b.png", "normal/c.png"]
    assert {(tile["slide_id"], tile["width_level0_px"], tile["band"]) for tile in tiles} == {("", 8, "tissue")}
    pixels = np.frombuffer(pixels_of(table), np.uint8).reshape(3, 8, 8, 3)
    np.testing.assert_array_equal(pixels[0], large[3:11, 2:10])
    assert (pixels[1:] == 255).all()
    good, small, broken = json.loads(row["errors"])
    assert good is None
    assert small == "normal/b.png: 12 x 7 px, the bundle needs 8 px"
    assert broken.startswith("normal/c.png: not an image that can be decoded")
    assert (row["slide"], row["part"], json.loads(row["header"])["n_parts"]) == (0, 0, 1)


def test_a_set_is_read_in_chunks_of_256_tiles(tmp_path: Path) -> None:
    refs = list_tiles(write_zip(tmp_path, {f"{i:03d}.png": b"" for i in range(600)}))
    chunks = tile_chunks(refs, TileSpec(mpp=1.0, tile_px=64))
    assert [len(chunk) for chunk in chunks] == [256, 256, 88]
    assert [ref for chunk in chunks for ref in chunk] == refs
