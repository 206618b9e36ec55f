"""Tile sets in a folder, a zip and Parquet; whatever is broken in them is one tile's error."""

import io
import struct
import threading
import time
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_proxy import FaultProxy, Request
from seaweed import SeaweedServer

from uadray.errors import InputError
from uadray.storage import objects
from uadray.tilesets import containers, shards
from uadray.tilesets.containers import TileRef, is_tile_set, kind, list_tiles, read_tiles

MEMBERS = ("normal/b.png", "normal/a.png", "tumor/c.PNG", "loose.png")


def _image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def _png(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image[..., ::-1])[1])


FILES = {name: _png(_image(i)) for i, name in enumerate(MEMBERS)}


def _folder(tmp_path: Path) -> str:
    for name, data in {**FILES, "normal/notes.txt": b"no image"}.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(data)
    return str(tmp_path / "set")


def _zip(tmp_path: Path, files: dict[str, bytes] = FILES) -> str:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**files, "normal/notes.txt": b"no image"}.items():
            archive.writestr(name, data)
    return str(path)


def _parquet(tmp_path: Path) -> str:
    path = tmp_path / "set.parquet"
    labels = [name.split("/")[0] if "/" in name else None for name in FILES]
    pq.write_table(pa.table({"tile_id": list(FILES), "label": labels, "image": list(FILES.values())}), path)
    return str(path)


MAKERS = {"folder": _folder, "zip": _zip, "parquet": _parquet}


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
        np.testing.assert_array_equal(image, _image(MEMBERS.index(ref.tile_id)))


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
    objects.write_bytes(objects.join(base, "set.zip"), Path(_zip(tmp_path)).read_bytes())
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
    assert {r.slide_id for r in list_tiles(_folder(tmp_path))} == {None}


@pytest.mark.s3
def test_a_folder_in_s3_is_read_many_images_at_once(s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, with answers that take 50 ms each, and no more ahead than are asked for at once."""
    base = f"s3://{s3.bucket}/many"
    for i in range(96):
        objects.write_bytes(f"{base}/normal/{i:03d}.png", _png(_image(i)))
    at_once: list[int] = []
    lock, running = threading.Lock(), [0]

    def slow(request: Request) -> None:
        with lock:
            running[0] += 1
            at_once.append(running[0])
        time.sleep(0.05)
        with lock:
            running[0] -= 1

    with FaultProxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        refs = list_tiles(base)
        proxy.fault = slow
        began = time.monotonic()
        read = read_tiles(base, refs)
        np.testing.assert_array_equal(next(read)[1], _image(0))
        assert len(proxy.gets(".png")) <= containers.IN_FLIGHT + 1
        for i, (ref, image, _) in enumerate(read, start=1):
            assert ref == refs[i]
            np.testing.assert_array_equal(image, _image(i))
        assert time.monotonic() - began < 96 * 0.05 / 2
    assert 8 < max(at_once) <= containers.IN_FLIGHT


def test_labels_are_the_parent_folder_only(tmp_path: Path) -> None:
    uri = _zip(tmp_path, {"train/siteA/tumor/x.png": FILES["loose.png"]})
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
        list_tiles(_zip(tmp_path, {}))


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


def test_a_zip_bomb_is_one_tiles_error(tmp_path: Path) -> None:
    """65 MiB of zeros in 65 KB: never unpacked."""
    uri = _zip(tmp_path, {"a.png": b"\0" * (containers.MAX_IMAGE_BYTES + 1), "b.png": FILES["loose.png"]})
    assert Path(uri).stat().st_size < 200_000
    assert [error is None for _, _, error in read_tiles(uri, list_tiles(uri))] == [False, True]


@pytest.mark.parametrize("damage", ["checksum", "size", "encrypted"])
def test_a_damaged_zip_member_is_one_tiles_error(tmp_path: Path, damage: str) -> None:
    uri = _zip(tmp_path, {"a.png": FILES["normal/a.png"], "b.png": FILES["loose.png"]})
    data = bytearray(Path(uri).read_bytes())
    local, central = data.index(b"PK\x03\x04"), data.index(b"PK\x01\x02")
    match damage:
        case "checksum":
            data[local + 60] ^= 0xFF  # in the middle of the packed bytes
        case "size":  # a bomb that lies about its size
            data[central + 24 : central + 28] = struct.pack("<I", 10)
        case "encrypted":
            data[local + 6] |= 1
            data[central + 8] |= 1
    Path(uri).write_bytes(data)
    assert [error is None for _, _, error in read_tiles(uri, list_tiles(uri))] == [False, True]


def test_a_file_too_large_or_gone_is_one_tiles_error(tmp_path: Path) -> None:
    uri = _folder(tmp_path)
    refs = list_tiles(uri)
    with (tmp_path / "set" / "normal" / "a.png").open("r+b") as file:
        file.truncate(containers.MAX_IMAGE_BYTES + 1)
    (tmp_path / "set" / "normal" / "b.png").unlink()
    assert [error is None for _, _, error in read_tiles(uri, refs)] == [True, False, False, True]


def test_grey_16_bit_and_jpeg_become_rgb_bytes(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    deep = (grey.astype(np.uint16) * 257)[..., None].repeat(3, 2)
    files = {
        "grey.png": bytes(cv2.imencode(".png", grey)[1]),
        "deep.png": bytes(cv2.imencode(".png", deep)[1]),
        "photo.jpg": bytes(cv2.imencode(".jpg", grey)[1]),
    }
    for _, image, error in read_tiles(uri := _zip(tmp_path, files), list_tiles(uri)):
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


def _bytes_read() -> int:
    """Bytes that this process has read by system calls so far."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def test_of_a_large_parquet_only_the_wanted_row_groups_are_read(tmp_path: Path) -> None:
    path = tmp_path / "large.parquet"
    rng = np.random.default_rng(0)
    images = [rng.bytes(20_000) for _ in range(1000)]  # no pictures: 20 MB that do not compress
    table = pa.table({"tile_id": [f"{i:04d}" for i in range(1000)], "image": images})
    pq.write_table(table, path, row_group_size=50, use_dictionary=False)
    refs = list_tiles(str(path))
    before = _bytes_read()
    errors = [error for _, _, error in read_tiles(str(path), [refs[i] for i in (420, 3, 401, 447)])]
    assert [str(error).partition(";")[0] for error in errors] == [
        f"{i:04d}: not an image that can be decoded" for i in (420, 3, 401, 447)
    ]
    assert 2 * 1_000_000 < _bytes_read() - before < 3 * 1_000_000, "two row groups of 1 MB"


def test_a_parquet_file_is_cut_into_runs(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"tile_id": [str(i) for i in range(3100)], "image": [b""] * 3100}), path, row_group_size=3000
    )
    runs = shards.file_ranges(str(path))
    assert [(r.group, r.start, r.stop, r.first_tile) for r in (runs[0], runs[1], runs[-1])] == [
        (0, 0, 188, 0),
        (0, 188, 376, 188),
        (1, 64, 100, 3064),
    ]
    assert len(runs) == 18
    rows = [values["tile_id"] for run in runs for values in shards.read_range(run, ("tile_id",))]
    assert rows == [str(i) for i in range(3100)]
    assert next(shards.read_range(runs[0], ("image", "label"))) == {"image": b"", "label": None}


def test_what_is_no_tile_set_json(tmp_path: Path) -> None:
    (tmp_path / "tileset.json").write_text('{"kind": "other"}')
    with pytest.raises(InputError, match=r"tileset\.json: not a tile set of this version"):
        list_tiles(str(tmp_path))
