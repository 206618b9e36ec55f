"""The slide cache: held copies stay, others make room; crashes, races and full disks."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from seaweed import SeaweedServer

from uadray import cache, storage
from uadray.cache import local_copy
from uadray.errors import InputError

MIB = 2**20


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UADRAY_CACHE_SLIDES", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put(server: SeaweedServer, name: str, size: int = MIB) -> tuple[str, bytes]:
    uri, data = f"s3://{server.bucket}/cache/{name}", os.urandom(size)
    storage.write_bytes(uri, data)
    return uri, data


def copies(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != ".lock")


def test_a_local_slide_is_used_where_it_lies(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "a.svs").write_bytes(b"x")
    etag = storage.stat(str(tmp_path / "a.svs")).etag
    for uri in [str(tmp_path / "a.svs"), (tmp_path / "a.svs").as_uri()]:
        with local_copy(uri, etag=etag) as path:
            assert path == tmp_path / "a.svs"
    assert not folder.exists()
    with pytest.raises(storage.NotFoundError), local_copy(str(tmp_path / "b.svs")):
        pass
    with pytest.raises(storage.ChangedError), local_copy(str(tmp_path / "a.svs"), etag="other"):
        pass


@pytest.mark.s3
@pytest.mark.parametrize("size", [0, 1, 8 * MIB, 70 * MIB + 1])
def test_an_object_is_copied_once(s3: SeaweedServer, folder: Path, size: int) -> None:
    uri, data = put(s3, "slide one.svs", size)
    with local_copy(uri) as path:
        assert path.parent == folder
        assert path.suffix == ".svs"
        assert path.read_bytes() == data
        first = path.stat()
    with local_copy(uri, slide_id="one") as path:
        assert (path.stat().st_ino, path.stat().st_size) == (first.st_ino, size)
    assert copies(folder) == [path]


@pytest.mark.s3
def test_a_changed_object_is_copied_anew(s3: SeaweedServer, folder: Path) -> None:
    uri, _ = put(s3, "changing.svs")
    etag = storage.stat(uri).etag
    with local_copy(uri, etag=etag) as old:
        storage.write_bytes(uri, b"new")
        with local_copy(uri) as new:
            assert new != old
            assert new.read_bytes() == b"new"
        assert old.stat().st_size == MIB
    with pytest.raises(storage.ChangedError, match="has changed"), local_copy(uri, etag=etag):
        pass


@pytest.mark.s3
def test_an_object_that_changes_while_it_is_copied(
    s3: SeaweedServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, _ = put(s3, "torn.svs", 20 * MIB)
    monkeypatch.setattr(cache, "_PARTS_AT_ONCE", 1)
    allocate = cache._allocate

    def change(descriptor: int, size: int) -> bool:
        storage.write_bytes(uri, b"x" * 20 * MIB)
        return allocate(descriptor, size)

    monkeypatch.setattr(cache, "_allocate", change)
    with pytest.raises(storage.ChangedError), local_copy(uri):
        pass
    assert copies(folder) == []


@pytest.mark.s3
def test_the_least_recently_used_makes_room(s3: SeaweedServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UADRAY_CACHE_BYTES", str(3 * MIB))
    uris = [put(s3, f"lru-{number}.svs")[0] for number in range(4)]
    paths = []
    for uri in [*uris[:3], uris[0]]:
        with local_copy(uri) as path:
            paths.append(path)
        time.sleep(0.02)
    with local_copy(uris[3]):
        assert paths[0].exists()
        assert not paths[1].exists()
        assert paths[2].exists()
    assert sum(path.stat().st_size for path in copies(folder)) <= 3 * MIB


@pytest.mark.s3
def test_a_copy_in_use_stays(s3: SeaweedServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UADRAY_CACHE_BYTES", str(2 * MIB))
    uris = [put(s3, f"held-{number}.svs")[0] for number in range(3)]
    with local_copy(uris[0]) as held:
        with local_copy(uris[1]) as other:
            pass
        with local_copy(uris[2]):
            assert held.exists()
            assert not other.exists()
            with (
                pytest.raises(storage.FullError, match=r"slide one: no room for 1048576.*in use.*UADRAY_CACHE_BYTES"),
                local_copy(uris[1], slide_id="one", wait_s=0.3),
            ):
                pass
    assert not [path for path in copies(folder) if path.suffix == ".part"]


@pytest.mark.s3
def test_who_waits_for_room_gets_it(s3: SeaweedServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UADRAY_CACHE_BYTES", str(MIB))
    uris = [put(s3, f"wait-{number}.svs")[0] for number in range(6)]
    most = 0

    def use(uri: str) -> None:
        nonlocal most
        with local_copy(uri, wait_s=60) as path:
            most = max(most, sum(copy.stat().st_size for copy in copies(path.parent) if copy.exists()))
            time.sleep(0.05)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(use, uris))
    assert most == MIB


@pytest.mark.s3
def test_a_slide_larger_than_the_cache(s3: SeaweedServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, _ = put(s3, "large.svs")
    monkeypatch.setenv("UADRAY_CACHE_BYTES", "1000")
    with (
        pytest.raises(storage.FullError, match=r"slide large\.svs: 1048576 bytes, and UADRAY_CACHE_BYTES"),
        local_copy(uri),
    ):
        pass
    monkeypatch.setenv("UADRAY_CACHE_BYTES", "20GB")
    with pytest.raises(InputError, match="UADRAY_CACHE_BYTES is '20GB'"), local_copy(uri):
        pass


@pytest.mark.s3
def test_slides_of_many_files_are_refused(s3: SeaweedServer, folder: Path) -> None:
    uri, _ = put(s3, "a.mrxs", 1)
    with pytest.raises(InputError, match="many files"), local_copy(uri):
        pass


COPY = """
import sys, time
from uadray import cache, storage
read = storage.read_ranges
def counted(*args, **kwargs):
    print("read", flush=True)
    time.sleep(float(sys.argv[2]))
    return read(*args, **kwargs)
storage.read_ranges = counted
with cache.local_copy(sys.argv[1]) as path:
    print(path, path.stat().st_size, flush=True)
"""


def start_copy(uri: str, *, delay_s: float) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", COPY, uri, str(delay_s)], stdout=subprocess.PIPE, text=True)


@pytest.mark.s3
def test_two_processes_download_once(s3: SeaweedServer, folder: Path) -> None:
    uri, data = put(s3, "twice.svs")
    processes = [start_copy(uri, delay_s=0.5) for _ in range(3)]
    said = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(words.count("read") for words in said) == 1
    assert [path.read_bytes() for path in copies(folder)] == [data]


@pytest.mark.s3
def test_what_a_killed_process_leaves_is_cleared(
    s3: SeaweedServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UADRAY_CACHE_BYTES", str(2 * MIB))
    uri, data = put(s3, "killed.svs")
    with start_copy(uri, delay_s=60) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "read\n"
        (left,) = copies(folder)
        assert left.suffix == ".part"
        assert left.stat().st_size == MIB
        process.send_signal(signal.SIGKILL)
    with local_copy(put(s3, "other-1.svs")[0]), local_copy(put(s3, "other-2.svs")[0]):
        assert not left.exists()  # it took room that was wanted
    with local_copy(uri) as path:
        assert path.read_bytes() == data


@pytest.mark.s3
def test_a_leftover_of_the_same_slide_is_overwritten(s3: SeaweedServer, folder: Path) -> None:
    uri, data = put(s3, "again.svs")
    name = cache._file_name(storage.stat(uri))
    folder.mkdir()
    (folder / f"{name}.part").write_bytes(b"half" * MIB)
    with local_copy(uri) as path:
        assert path.read_bytes() == data
    path.write_bytes(b"cut short")
    with local_copy(uri) as path:
        assert path.read_bytes() == data
    assert copies(folder) == [path]


@pytest.mark.s3
def test_many_threads_in_a_small_cache(s3: SeaweedServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds a copy reads the right bytes, however often copies are evicted around it."""
    monkeypatch.setenv("UADRAY_CACHE_BYTES", str(300_000))
    slides = [put(s3, f"many-{number}.svs", 50_000 + number) for number in range(10)]

    def use(number: int) -> None:
        uri, data = slides[(number * 7) % 10]
        with local_copy(uri, wait_s=60) as path:
            assert path.read_bytes() == data

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(use, range(80)))
    assert sum(path.stat().st_size for path in copies(folder)) <= 300_000
    assert all(path.suffix == ".svs" for path in copies(folder))


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    monkeypatch.setenv("UADRAY_CACHE_SLIDES", str(disk))
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.s3
def test_a_full_disk(s3: SeaweedServer, small_disk: Path) -> None:
    large, small = put(s3, "disk-large.svs", 5 * MIB)[0], [put(s3, f"disk-{n}.svs", 3 * MIB)[0] for n in range(2)]
    with (
        pytest.raises(
            storage.FullError, match=f"slide large: the disk of the cache {small_disk} is full.*UADRAY_CACHE"
        ),
        local_copy(large, slide_id="large"),
    ):
        pass
    assert copies(small_disk) == []
    for uri in small:  # the second evicts the first, though UADRAY_CACHE_BYTES would allow both
        with local_copy(uri) as path:
            assert path.stat().st_size == 3 * MIB
    with pytest.raises(storage.FullError, match="the disk is full"):
        storage.write_bytes(str(small_disk / "big"), b"x" * 5 * MIB)
    assert copies(small_disk) == [path]
