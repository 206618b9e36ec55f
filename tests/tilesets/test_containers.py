"""Tile sets in a folder, a zip and Parquet look alike; whatever is broken in them is one tile's error."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sets import FILES, MEMBERS, noise, write_folder, write_parquet, write_zip
from seaweed import SeaweedServer

from uadray.errors import InputError
from uadray.storage import objects
from uadray.tilesets.containers import TileRef, check, is_tile_set, kind, list_tiles, read_tiles

MAKERS = {"folder": write_folder, "zip": write_zip, "parquet": write_parquet}


@pytest.mark.parametrize("container", MAKERS)
def test_every_container_gives_the_same_tiles(tmp_path: Path, container: str) -> None:
    uri = MAKERS[container](tmp_path)
    refs = list_tiles(uri)
    assert kind(uri) == container
    assert is_tile_set(uri)
    assert [(r.tile_id, r.label) for r in refs] == [
        ("loose.png", None),
        ("normal/a.png", "normal"),
        ("normal/b.png", "normal"),
        ("tumor/c.PNG", "tumor"),
    ]
    for ref, image, error in read_tiles(uri, refs):
        assert error is None
        np.testing.assert_array_equal(image, noise(MEMBERS.index(ref.tile_id)))


@pytest.mark.parametrize("container", MAKERS)
def test_one_label(tmp_path: Path, container: str) -> None:
    uri = MAKERS[container](tmp_path)
    assert [r.tile_id for r in list_tiles(uri, label="tumor")] == ["tumor/c.PNG"]
    with pytest.raises(InputError, match="no tiles with the label 'necrosis' found"):
        list_tiles(uri, label="necrosis")


@pytest.mark.parametrize("container", MAKERS)
def test_some_tiles_in_any_order(tmp_path: Path, container: str) -> None:
    uri = MAKERS[container](tmp_path)
    refs = list_tiles(uri)[::-2]
    assert [ref.tile_id for ref, _, _ in read_tiles(uri, refs)] == [r.tile_id for r in refs]


@pytest.mark.s3
def test_on_s3(s3: SeaweedServer, tmp_path: Path) -> None:
    base = f"s3://{s3.bucket}/tilesets"
    for name, data in FILES.items():
        objects.write_bytes(objects.join(base, "set", name), data)
    objects.write_bytes(objects.join(base, "set.zip"), Path(write_zip(tmp_path)).read_bytes())
    for uri in (objects.join(base, "set"), objects.join(base, "set.zip")):
        refs = list_tiles(uri)
        assert [(r.tile_id, r.label) for r in refs][1] == ("normal/a.png", "normal")
        assert all(image is not None for _, image, _ in read_tiles(uri, refs))


def test_parquet_tells_the_slide_by_a_column_or_by_its_ids(tmp_path: Path) -> None:
    path = str(tmp_path / "set.parquet")
    columns = {"tile_id": ["a/x0_y0_6px_1mpp", "7"], "image": [FILES["loose.png"]] * 2}
    pq.write_table(pa.table(columns), path)
    assert [r.slide_id for r in list_tiles(path)] == [None, "a"]
    pq.write_table(pa.table(columns | {"slide_id": ["own", None]}), path)
    assert [r.slide_id for r in list_tiles(path)] == [None, "own"]
    assert {r.slide_id for r in list_tiles(write_folder(tmp_path))} == {None}


def test_labels_are_the_parent_folder_only(tmp_path: Path) -> None:
    uri = write_zip(tmp_path, {"train/siteA/tumor/x.png": FILES["loose.png"]})
    assert list_tiles(uri) == [TileRef("train/siteA/tumor/x.png", "tumor", "train/siteA/tumor/x.png")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("m.csv", False), ("m.tsv", False), ("s3://b/tiles", True), ("/x/tiles.zip", True), ("/x/folder/", True)],
)
def test_manifests_are_no_tile_sets(name: str, expected: bool) -> None:
    assert is_tile_set(name) == expected


def test_a_parquet_manifest_is_no_tile_set(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"slide_id": ["a"], "uri": ["a.tif"]}), path)
    assert not is_tile_set(str(path))
    with pytest.raises(InputError, match=r"no column image and tile_id; found \[\"slide_id\", \"uri\"\]"):
        list_tiles(str(path))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("none", None, "no tiles found"),
        ("none.zip", None, "no such file"),
        ("none.parquet", None, "no such file"),
        ("bad.zip", b"PK no zip", "not a zip file"),
        ("bad.parquet", b"PAR1 no", "not a Parquet file"),
    ],
)
def test_containers_that_cannot_be_used(tmp_path: Path, name: str, content: bytes | None, expected: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=expected):
        list_tiles(str(tmp_path / name))


def test_an_empty_zip_has_no_tiles(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tiles found; expected images"):
        list_tiles(write_zip(tmp_path, {}))


def _huge_png() -> bytes:
    """A header of 60,000 x 60,000 px over nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BROKEN = {"empty": b"", "text": b"not an image", "cut": FILES["loose.png"][:60], "huge": _huge_png()}
WORDS = {
    "empty": "not an image that can be decoded; expected JPEG",
    "text": "not an image that can be decoded; expected JPEG",
    "cut": "image is damaged and cannot be decoded",
    "huge": "image claims more pixels than any tile has",
}


@pytest.mark.parametrize("container", MAKERS)
@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_image_is_one_tiles_error(
    tmp_path: Path, container: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FILES, "normal/a.png", BROKEN[what])
    uri = MAKERS[container](tmp_path)
    found = {ref.tile_id: (image, error) for ref, image, error in read_tiles(uri, list_tiles(uri))}
    image, error = found["normal/a.png"]
    assert image is None
    assert str(error).startswith(f"normal/a.png: {WORDS[what]}")
    assert all(image is not None for name, (image, _) in found.items() if name != "normal/a.png")


def test_grey_16_bit_and_jpeg_become_rgb_bytes(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    deep = (grey.astype(np.uint16) * 257)[..., None].repeat(3, 2)
    files = {
        "grey.png": bytes(cv2.imencode(".png", grey)[1]),
        "deep.png": bytes(cv2.imencode(".png", deep)[1]),
        "photo.jpg": bytes(cv2.imencode(".jpg", grey)[1]),
    }
    for _, image, error in read_tiles(uri := write_zip(tmp_path, files), list_tiles(uri)):
        assert error is None
        assert image is not None
        assert (image.dtype, image.shape) == (np.uint8, (8, 8, 3))
        assert np.abs(image.astype(int) - grey[..., None]).max() <= 3


def test_null_images_in_parquet(tmp_path: Path) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"tile_id": ["a", "b"], "image": pa.array([None, FILES["loose.png"]], pa.binary())}), sink)
    (tmp_path / "s.parquet").write_bytes(sink.getvalue())
    uri = str(tmp_path / "s.parquet")
    refs = list_tiles(uri)
    assert [r.label for r in refs] == [None, None]
    assert [error is None for _, _, error in read_tiles(uri, refs)] == [False, True]


def test_real_tiles(data_dir: Path) -> None:
    uri = str(data_dir / "pcam" / "valid.zip")
    refs = list_tiles(uri)
    assert {label: sum(r.label == label for r in refs) for label in ("normal", "tumor")} == {
        "normal": 1500,
        "tumor": 1407,
    }
    images = [image for _, image, _ in read_tiles(uri, refs[::300])]
    assert all(image is not None and image.shape == (96, 96, 3) for image in images)


def test_a_container_without_tiles_is_refused_before_work(tmp_path: Path) -> None:
    check(write_zip(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no tiles found"):
        check(str(tmp_path / "empty"))
