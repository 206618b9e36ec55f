"""A gallery gives the normal tiles that look most like a tile; it is of one bundle, and untrusted input."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uadray.detectors import gallery
from uadray.detectors.gallery import Describer, load_gallery, write_gallery
from uadray.errors import InputError
from uadray.networks.bundle_description import GALLERY
from uadray.reports.pictures import encode_jpeg

BUNDLE: Any = SimpleNamespace(id="b1")


def _textures(n: int, seed: int) -> npt.NDArray[np.uint8]:
    """Tiles of blotches: of three sizes in turn."""
    rng = np.random.default_rng(seed)
    sides = (4, 12, 48)
    return np.stack([
        cv2.resize(rng.integers(60, 220, (sides[i % 3], sides[i % 3], 3), np.uint8), (64, 64)) for i in range(n)
    ])  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("bundle"))
    pixels = _textures(12, seed=0)
    jpegs = [encode_jpeg(tile) for tile in pixels]
    write_gallery(uri, BUNDLE, jpegs, list(range(12)), Describer()(pixels))
    return uri


def test_the_nearest_are_of_the_same_texture_and_a_tile_finds_itself(written: str) -> None:
    normals = load_gallery(written, BUNDLE)
    assert normals is not None
    for tile, nearest in zip(_textures(6, seed=1), normals.nearest(_textures(6, seed=1)), strict=True):
        assert tile.shape == (64, 64, 3)
        assert len(nearest) == gallery.NEAREST
    found = [[int(each["score"]) % 3 for each in row] for row in normals.nearest(_textures(6, seed=1))]
    assert [row[0] for row in found] == [0, 1, 2, 0, 1, 2]
    assert [row[0]["score"] for row in normals.nearest(_textures(12, seed=0))] == list(range(12))


def test_a_tile_alone_has_the_same_neighbours(written: str) -> None:
    normals, tiles = load_gallery(written, BUNDLE), _textures(5, seed=2)
    assert normals is not None
    alone = [normals.nearest(tile[None])[0] for tile in tiles]
    assert alone == normals.nearest(tiles)


def test_none_is_there(tmp_path: Path) -> None:
    assert load_gallery(str(tmp_path), BUNDLE) is None


def test_another_bundles_is_refused(written: str) -> None:
    with pytest.raises(InputError, match="belongs to bundle b1, this is b2"):
        load_gallery(written, SimpleNamespace(id="b2"))  # type: ignore[arg-type]


def _spoilt(written: str, folder: Path, **columns: Any) -> str:
    table = pq.read_table(f"{written}/{GALLERY}")
    for name, value in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(
            at, table.schema.field(at), pa.array([value] * len(table), table.schema.field(at).type)
        )
    pq.write_table(table, folder / GALLERY)
    return str(folder)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"jpeg": b"<svg onload=alert(1)>"}, "no JPEG"),
        ({"jpeg": b"x" * (2**20 + 1)}, "bytes"),
        ({"score": float("nan")}, "no numbers"),
        ({"descriptor": [float("inf")] * 152}, "no numbers"),
        ({"descriptor": None}, "another length"),
        ({"descriptor": [0.5] * 3}, "another length"),
    ],
)
def test_damaged_ones_are_refused(written: str, tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_gallery(_spoilt(written, tmp_path, **columns), BUNDLE)


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / GALLERY).write_bytes(b"PAR1 and nothing more")
    with pytest.raises(InputError, match="not a gallery"):
        load_gallery(str(tmp_path), BUNDLE)
