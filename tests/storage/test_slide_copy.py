"""A copy of a slide is what was downloaded, or it is downloaded again."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_proxy import FaultProxy
from seaweed import SeaweedServer
from storage.cached_slides import MIB, before, contents, copy_of, entries, put, put_mrxs

from uadray.errors import ChangedError
from uadray.storage import objects, slide_copy
from uadray.storage.local_copies import local_copy


def flip(path: Path, *, at: int = 1000, same_mtime: bool = False) -> None:
    """Damage a byte, keep the length; with `same_mtime` the times too, as far as a program can."""
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    if same_mtime:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def stamp(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def write_old_record(copy: Path) -> None:
    """As uadray wrote them before records had a format: with check sums, and true to the disk."""
    folder = copy / "files"
    paths = [path for path in folder.rglob("*") if path.is_file()]
    files = {str(path.relative_to(folder)): {"stamp": stamp(path), "crcs": [0]} for path in paths}
    (copy / "record.json").write_text(json.dumps({"boot": "", "files": files}))


def shorten_as_recorded(copy: Path, file: Path) -> None:
    """A file that has another length than the one in S3, as the record says too."""
    os.truncate(file, 999)
    record = json.loads((copy / "record.json").read_bytes())
    record["files"][str(file.relative_to(copy / "files"))] = stamp(file)
    (copy / "record.json").write_text(json.dumps(record))


@pytest.mark.s3
@pytest.mark.parametrize(
    "harm",
    [
        lambda copy, file: flip(file),
        lambda copy, file: flip(file, same_mtime=True),
        lambda copy, file: os.truncate(file, 999),
        lambda copy, file: file.write_bytes(bytes(len(file.read_bytes()))),
        lambda copy, file: shorten_as_recorded(copy, file),
        lambda copy, file: file.unlink(),
        lambda copy, file: os.utime(file),
        lambda copy, file: write_old_record(copy),
        lambda copy, file: (copy / "record.json").unlink(),
        lambda copy, file: (copy / "record.json").write_bytes(b'{"boot": "", "files": {}}'),
        lambda copy, file: (copy / "record.json").write_bytes(b"\xff"),
    ],
    ids=[
        "byte",
        "byte and time",
        "cut",
        "zeros",
        "cut and recorded",
        "gone",
        "times",
        "old record",
        "no record",
        "empty record",
        "broken record",
    ],
)
def test_a_copy_that_has_suffered_is_never_read(
    s3: SeaweedServer, cache_folder: Path, harm: Callable[[Path, Path], object]
) -> None:
    uri, files = put_mrxs(s3, "harmed", {"Data0000.dat": 5000, "Slidedat.ini": 10})
    with local_copy(uri) as path:
        pass
    harm(copy_of(path), path.parent / "slide" / "Data0000.dat")
    with local_copy(uri) as path:
        assert contents(path) == files
        inode = path.stat().st_ino
    with local_copy(uri) as path:
        assert path.stat().st_ino == inode  # and then trusted
    assert len(entries(cache_folder)) == 1


@pytest.mark.s3
def test_every_range_is_of_the_version_that_was_looked_at(
    s3: SeaweedServer, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slide_copy, "PART_BYTES", MIB // 4)
    uri, data = put(s3, "ranges.svs")
    with FaultProxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        with local_copy(uri) as path:
            assert path.read_bytes() == data
        ranges = {request.byte_range: request.conditions for request in proxy.gets("ranges.svs")}
    assert len(ranges) == 4
    assert set(ranges.values()) == {frozenset({"if-match"})}


@pytest.mark.s3
def test_damage_is_found_by_any_number_at_once(s3: SeaweedServer, cache_folder: Path) -> None:
    """Of many who find a copy damaged one throws it away; nobody throws away the new one."""
    uri, data = put(s3, "crowd.svs", 50_000)
    for _ in range(3):
        with local_copy(uri) as path:
            flip(path)

        def read(_: int) -> bytes:
            with local_copy(uri) as path:
                return path.read_bytes()

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(read, range(16))) == {data}
    assert len(entries(cache_folder)) == 1


@pytest.mark.s3
def test_an_object_that_changes_while_it_is_copied(
    s3: SeaweedServer, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, _ = put(s3, "torn.svs")
    monkeypatch.setattr(slide_copy, "PART_BYTES", MIB // 4)
    before(monkeypatch, lambda: objects.write_bytes(uri, b"x" * MIB), fetch=3)
    with pytest.raises(ChangedError), local_copy(uri):
        pass
    assert entries(cache_folder) == []
