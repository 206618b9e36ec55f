"""What `tileset.json` may say, and what it may not."""

import json
from pathlib import Path

import pytest
from tile_sets import FILE_GRID

from uadray.errors import InputError
from uadray.tilesets.containers import list_tiles
from uadray.tilesets.records import CutOptions, SlideTiles, TileSet, is_folder, parse_tile_set, read_tile_set


def test_what_is_no_tile_set_json(tmp_path: Path) -> None:
    (tmp_path / "tileset.json").write_text('{"kind": "other"}')
    with pytest.raises(InputError, match=r"tileset\.json: not a tile set of this version"):
        list_tiles(str(tmp_path))


def _tile_set(*, finished: bool) -> TileSet:
    slide = SlideTiles(
        slide_id="a", fingerprint="f", etag="e", label=None, shards=["part-a-f-0.parquet", "part-a-f-1.parquet"],
        rows=[64, 3], kept=0, unreadable=0, flagged=0, bytes=1,
    )  # fmt: skip
    return TileSet(spec=FILE_GRID, options=CutOptions(), fingerprint="g", finished=finished, slides=[slide])


def test_a_tile_set_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert not is_folder(str(tmp_path))
    tile_set = _tile_set(finished=True)
    (tmp_path / "tileset.json").write_text(tile_set.model_dump_json(indent=1))
    assert is_folder(str(tmp_path))
    assert read_tile_set(str(tmp_path)) == tile_set
    assert tile_set.n_tiles == 67


def test_an_unfinished_one_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "tileset.json").write_text(_tile_set(finished=False).model_dump_json())
    assert not parse_tile_set(str(tmp_path)).finished
    with pytest.raises(InputError, match="is not finished; run the same `uadray tile` command again"):
        read_tile_set(str(tmp_path))


def test_another_layout_is_refused(tmp_path: Path) -> None:
    values = json.loads(_tile_set(finished=True).model_dump_json()) | {"version": 2}
    (tmp_path / "tileset.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"tileset\.json: version 2 is not known here; make it again"):
        read_tile_set(str(tmp_path))
