"""Image files in a folder or a zip: read many at once, and none larger than a tile can be."""

import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fault_proxy import FaultProxy, Request
from image_sets import FILES, noise, png, write_folder, write_zip
from seaweed import SeaweedServer

from uadray.storage import objects
from uadray.tilesets.containers import list_tiles, read_tiles
from uadray.tilesets.image_files import MAX_IMAGE_BYTES
from uadray.tilesets.in_order import IN_FLIGHT


@pytest.mark.s3
def test_a_folder_in_s3_is_read_many_images_at_once(s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, with answers that take 50 ms each, and no more ahead than are asked for at once."""
    base = f"s3://{s3.bucket}/many"
    for i in range(96):
        objects.write_bytes(f"{base}/normal/{i:03d}.png", png(noise(i)))
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
        np.testing.assert_array_equal(next(read)[1], noise(0))
        assert len(proxy.gets(".png")) <= IN_FLIGHT + 1
        for i, (ref, image, _) in enumerate(read, start=1):
            assert ref == refs[i]
            np.testing.assert_array_equal(image, noise(i))
        assert time.monotonic() - began < 96 * 0.05 / 2
    assert 8 < max(at_once) <= IN_FLIGHT


def test_a_zip_bomb_is_one_tiles_error(tmp_path: Path) -> None:
    """65 MiB of zeros in 65 KB: never unpacked."""
    uri = write_zip(tmp_path, {"a.png": b"\0" * (MAX_IMAGE_BYTES + 1), "b.png": FILES["loose.png"]})
    assert Path(uri).stat().st_size < 200_000
    assert [error is None for _, _, error in read_tiles(uri, list_tiles(uri))] == [False, True]


@pytest.mark.parametrize("damage", ["checksum", "size", "encrypted"])
def test_a_damaged_zip_member_is_one_tiles_error(tmp_path: Path, damage: str) -> None:
    uri = write_zip(tmp_path, {"a.png": FILES["normal/a.png"], "b.png": FILES["loose.png"]})
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
    uri = write_folder(tmp_path)
    refs = list_tiles(uri)
    with (tmp_path / "set" / "normal" / "a.png").open("r+b") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    (tmp_path / "set" / "normal" / "b.png").unlink()
    assert [error is None for _, _, error in read_tiles(uri, refs)] == [True, False, False, True]
