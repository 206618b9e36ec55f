"""The slide cache: held copies stay, others make room; crashes, races, full disks, damage, slides of many files."""

import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import openslide
import pytest
from seaweed import SeaweedServer

from uadray.errors import BusyError, ChangedError, FullError, InputError, NotFoundError, UnreachableError
from uadray.storage import copies, objects
from uadray.storage.local_copies import local_copy
from uadray.storage.slide_files import slide_files, slide_stat

MIB = 2**20


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UADRAY_CACHE_SLIDES", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put(server: SeaweedServer, name: str, size: int = MIB) -> tuple[str, bytes]:
    uri, data = f"s3://{server.bucket}/cache/{name}", os.urandom(size)
    objects.write_bytes(uri, data)
    return uri, data


def before(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object], *, fetch: int) -> None:
    """Do something before the `fetch`-th download of a part."""
    download, lock, done = copies._fetch, threading.Lock(), [0]

    def fetched(*args: object, **kwargs: object) -> object:
        with lock:
            done[0] += 1
            if done[0] == fetch:
                action()
        return download(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(copies, "PARTS_AT_ONCE", 1)
    monkeypatch.setattr(copies, "_fetch", fetched)


def entries(folder: Path) -> list[Path]:
    """Copies, and what is on the way to become one."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def used_bytes(folder: Path) -> int:
    return sum(copies.slide_bytes(path) for path in entries(folder))


def copy_of(path: Path) -> Path:
    """The copy that a slide's path lies in."""
    return next(above for above in path.parents if (above / "record.json").exists())


def test_a_local_slide_is_used_where_it_lies(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "a.svs").write_bytes(b"x")
    etag = objects.stat(str(tmp_path / "a.svs")).etag
    for uri in [str(tmp_path / "a.svs"), (tmp_path / "a.svs").as_uri()]:
        with local_copy(uri, etag=etag) as path:
            assert path == tmp_path / "a.svs"
    assert not folder.exists()
    with pytest.raises(NotFoundError), local_copy(str(tmp_path / "b.svs")):
        pass
    with pytest.raises(ChangedError), local_copy(str(tmp_path / "a.svs"), etag="other"):
        pass


@pytest.mark.s3
@pytest.mark.parametrize("size", [0, 1, 8 * MIB, 16 * MIB + 1])
def test_an_object_is_copied_once(s3: SeaweedServer, folder: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uadray.storage.s3._MULTIPART_BYTES", 9 * MIB)
    uri, data = put(s3, "slide one.svs", size)
    assert ("-" in objects.stat(uri).etag) == (size > 9 * MIB)  # else it is an MD5
    with local_copy(uri) as path:
        assert copy_of(path).parent == folder
        assert path.name == "slide.svs"
        assert path.read_bytes() == data
        first = path.stat()
    with local_copy(uri, slide_id="one") as path:
        assert (path.stat().st_ino, path.stat().st_size) == (first.st_ino, size)
    assert entries(folder) == [copy_of(path)]


@pytest.mark.s3
def test_a_changed_object_is_copied_anew(s3: SeaweedServer, folder: Path) -> None:
    uri, _ = put(s3, "changing.svs")
    etag = objects.stat(uri).etag
    with local_copy(uri, etag=etag) as old:
        objects.write_bytes(uri, b"new")
        with local_copy(uri) as new:
            assert new != old
            assert new.read_bytes() == b"new"
        assert old.stat().st_size == MIB
    with pytest.raises(ChangedError, match="has changed"), local_copy(uri, etag=etag):
        pass


@pytest.mark.s3
def test_an_object_that_changes_while_it_is_copied(
    s3: SeaweedServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, _ = put(s3, "torn.svs")
    monkeypatch.setattr(copies, "PART_BYTES", MIB // 4)
    before(monkeypatch, lambda: objects.write_bytes(uri, b"x" * MIB), fetch=3)
    with pytest.raises(ChangedError), local_copy(uri):
        pass
    assert entries(folder) == []


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
    assert used_bytes(folder) <= 3 * MIB


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
                pytest.raises(BusyError, match=r"slide one: no room for 1048576.*in use.*UADRAY_CACHE_BYTES"),
                local_copy(uris[1], slide_id="one", wait_s=0.3),
            ):
                pass
    assert not [path for path in entries(folder) if path.suffix == ".part"]


@pytest.mark.s3
def test_who_waits_for_room_gets_it(s3: SeaweedServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UADRAY_CACHE_BYTES", str(MIB))
    uris = [put(s3, f"wait-{number}.svs")[0] for number in range(6)]
    most = 0

    def use(uri: str) -> None:
        nonlocal most
        with local_copy(uri, wait_s=60):
            most = max(most, used_bytes(folder))
            time.sleep(0.05)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(use, uris))
    assert most == MIB


@pytest.mark.s3
def test_those_who_wait_for_each_other_do_not_wait_for_ever(
    s3: SeaweedServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UADRAY_CACHE_BYTES", str(2 * MIB))
    uris = [put(s3, f"circle-{number}.svs")[0] for number in range(4)]
    both = threading.Barrier(2)

    def hold_and_want(held: str, wanted: str, wait_s: float) -> str:
        try:
            with local_copy(held):
                both.wait(timeout=60)
                with local_copy(wanted, wait_s=wait_s):
                    return "had both"
        except BusyError:
            return "gave up"

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(hold_and_want, uris[:2], uris[2:], (0.3, 60))) == ["gave up", "had both"]
    assert used_bytes(folder) <= 2 * MIB


@pytest.mark.s3
def test_a_slide_larger_than_the_cache(s3: SeaweedServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, _ = put(s3, "large.svs")
    monkeypatch.setenv("UADRAY_CACHE_BYTES", "1000")
    with (
        pytest.raises(
            FullError,
            match=r"slide large\.svs: 1048576 bytes, and UADRAY_CACHE_BYTES .*to 1048576 at",
        ),
        local_copy(uri),
    ):
        pass
    monkeypatch.setenv("UADRAY_CACHE_BYTES", "20GB")
    with pytest.raises(InputError, match="UADRAY_CACHE_BYTES is '20GB'"), local_copy(uri):
        pass


COPY = """
import sys, threading, time
from uadray.storage import copies
from uadray.storage.local_copies import local_copy
fetch = copies._fetch
def counted(*args, **kwargs):
    print("fetch", flush=True)
    time.sleep(float(sys.argv[1]))
    return fetch(*args, **kwargs)
copies._fetch = counted
copies.PARTS_AT_ONCE = 1
def stage(uri):
    with local_copy(uri) as path:
        print(path, flush=True)
threads = [threading.Thread(target=stage, args=[uri]) for uri in sys.argv[2:]]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def start_copy(*uris: str, delay_s: float) -> "subprocess.Popen[str]":
    """A process that stages slides, each in a thread; says `fetch` before each download, waits, and says the paths."""
    command = [sys.executable, "-c", COPY, str(delay_s), *uris]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


HOLD = """
import sys
from uadray.errors import BusyError
from uadray.storage.local_copies import local_copy
try:
    with local_copy(sys.argv[1], wait_s=30):
        print("has", flush=True)
        sys.stdin.read()
except BusyError:
    print("busy", flush=True)
"""


def start_hold(uri: str) -> "subprocess.Popen[str]":
    """A process that wants a copy, says `has` when it has it, and holds it until its standard input ends."""
    command = [sys.executable, "-c", HOLD, uri]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tickets(folder: Path) -> int:
    return sum(path.name.startswith(".wait-") for path in folder.iterdir()) if folder.exists() else 0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.s3
def test_who_waits_waits_as_long_as_bytes_arrive(
    s3: SeaweedServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that takes eight times as long as others wait without a movement."""
    monkeypatch.setenv("UADRAY_CACHE_BYTES", str(9 * MIB))
    slow, after = put_mrxs(s3, "slow", {f"Data{n:04}.dat": MIB for n in range(8)})[0], put(s3, "after.svs", 4 * MIB)[0]
    with start_copy(slow, delay_s=0.4) as first:
        assert said(first) == "fetch"
        began = time.monotonic()
        with local_copy(after, wait_s=1):
            assert time.monotonic() - began > 2
        first.communicate()
    with start_hold(slow) as holder:
        assert said(holder) == "has"
        began = time.monotonic()
        with (
            pytest.raises(BusyError, match="nothing moved for 1 s"),
            local_copy(after, wait_s=1),
        ):
            pass
        assert time.monotonic() - began < 20
    assert tickets(folder) == 0


@pytest.mark.s3
def test_room_is_given_in_turn(s3: SeaweedServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large slide that waits gets its room before small ones that came later, and the dead keep no place."""
    monkeypatch.setenv("UADRAY_CACHE_BYTES", str(4 * MIB))
    small = [put(s3, f"turn-{n}.svs")[0] for n in range(2)]
    large = [put(s3, f"turn-large-{n}.svs", 4 * MIB)[0] for n in range(2)]
    processes: list[subprocess.Popen[str]] = []
    try:
        for n, uri in enumerate([small[0], *large, small[1]]):
            processes.append(start_hold(uri))
            if n == 0:
                assert said(processes[0]) == "has"
            until(lambda: tickets(folder) == n)  # noqa: B023
        processes[1].kill()
        processes[0].communicate()
        assert said(processes[2]) == "has"
        time.sleep(0.5)
        assert tickets(folder) == 1  # the small one, which would have fitted all the time, but for those before it
        processes[2].communicate()
        assert said(processes[3]) == "has"
        assert tickets(folder) == 0
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def put_mrxs(server: SeaweedServer, name: str, sizes: dict[str, int]) -> tuple[str, dict[str, bytes]]:
    """Something with the structure of an MRXS slide (not one that OpenSlide could open), and its files in a copy."""
    uri, data = put(server, f"{name}.mrxs", 1000)
    found = {"slide.mrxs": data}
    for file, size in sizes.items():
        found[f"slide/{file}"] = put(server, f"{name}/{file}", size)[1]
    put(server, f"{name} other/Data0000.dat", 1)
    return uri, found


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path.parent)): file.read_bytes() for file in path.parent.rglob("*") if file.is_file()}


MRXS = {"Slidedat.ini": 500, "Index.dat": 2000, "Data0000.dat": MIB - 3500, "Data0001.dat": 0}


@pytest.mark.s3
def test_two_processes_download_once(s3: SeaweedServer, folder: Path) -> None:
    (file_uri, data), (folder_uri, files) = put(s3, "twice.svs"), put_mrxs(s3, "twice", MRXS)
    processes = [start_copy(file_uri, folder_uri, delay_s=0.3) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(words.count("fetch") for words in said) == 1 + 4  # Data0001.dat is empty
    assert len(entries(folder)) == 2
    with local_copy(file_uri) as path, local_copy(folder_uri) as main:
        assert all(set(words) - {"fetch"} == {str(path), str(main)} for words in said)
        assert path.read_bytes() == data
        assert contents(main) == files


@pytest.mark.s3
def test_what_a_killed_process_leaves_is_cleared(
    s3: SeaweedServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UADRAY_CACHE_BYTES", str(2 * MIB))
    (file_uri, data), (folder_uri, files) = put(s3, "killed.svs"), put_mrxs(s3, "killed", MRXS)
    with start_copy(file_uri, folder_uri, delay_s=60) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["fetch\n"] * 2
        left = entries(folder)
        assert [(path.suffix, copies.slide_bytes(path)) for path in left] == [(".part", MIB)] * 2
        with pytest.raises(BusyError, match="in use"), local_copy(put(s3, "other-1.svs")[0], wait_s=0):
            pass  # it lives, and holds what it has
        process.send_signal(signal.SIGKILL)
    with local_copy(put(s3, "other-1.svs")[0]), local_copy(put(s3, "other-2.svs")[0]):
        assert not any(path.exists() for path in left)  # they took room that was wanted
    with local_copy(file_uri) as path:
        assert path.read_bytes() == data
    with local_copy(folder_uri) as path:
        assert contents(path) == files


@pytest.mark.s3
def test_a_leftover_of_the_same_slide_is_emptied(s3: SeaweedServer, folder: Path) -> None:
    uri, data = put(s3, "again.svs")
    with local_copy(uri) as path:
        copy = copy_of(path)
    copy.rename(copy.with_name(copy.name + ".part"))
    (copy.with_name(copy.name + ".part") / "files" / "other.svs").write_bytes(b"half" * 2 * MIB)
    with local_copy(uri) as path:
        assert contents(path) == {"slide.svs": data}
    assert entries(folder) == [copy]


@pytest.mark.s3
def test_a_folder_of_somebody_else_is_left_alone(
    s3: SeaweedServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sets the cache to a folder that holds other things loses none of them."""
    monkeypatch.setenv("UADRAY_CACHE_BYTES", str(MIB))
    (folder / "thesis").mkdir(parents=True)
    (folder / "thesis" / "only copy.tex").write_bytes(b"x" * MIB)
    (folder / ("a" * 32)).write_bytes(b"a file with a name like ours")
    for number in range(2):
        with local_copy(put(s3, f"tenant-{number}.svs")[0]):
            assert (folder / "thesis" / "only copy.tex").exists()
    assert len(entries(folder)) == 3


@pytest.mark.s3
def test_many_threads_in_a_small_cache(s3: SeaweedServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds a copy reads the right bytes, however often copies are evicted around it."""
    monkeypatch.setenv("UADRAY_CACHE_BYTES", str(300_000))
    slides = [put(s3, f"many-{number}.svs", 50_000 + number) for number in range(8)]
    folders = [put_mrxs(s3, f"many-{number}", {"Data0000.dat": 49_000, "Slidedat.ini": number}) for number in range(2)]

    def use(number: int) -> None:
        place = (number * 7) % 10
        if place < 8:
            with local_copy(slides[place][0], wait_s=60) as path:
                assert path.read_bytes() == slides[place][1]
        else:
            with local_copy(folders[place - 8][0], wait_s=60) as path:
                assert contents(path) == folders[place - 8][1]

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(use, range(50)))
    assert used_bytes(folder) <= 300_000
    assert all(path.suffix == "" for path in entries(folder))


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
        pytest.raises(FullError, match=f"slide large: the disk of the cache {small_disk} is full.*UADRAY_CACHE"),
        local_copy(large, slide_id="large"),
    ):
        pass
    assert entries(small_disk) == []
    several = put_mrxs(s3, "disk", {"Data0000.dat": 3 * MIB, "Data0001.dat": 3 * MIB})[0]
    with pytest.raises(FullError, match=r"slide disk\.mrxs: the disk of the cache"), local_copy(several):
        pass
    assert entries(small_disk) == []
    for uri in small:  # the second evicts the first, though UADRAY_CACHE_BYTES would allow both
        with local_copy(uri) as path:
            assert path.stat().st_size == 3 * MIB
    with pytest.raises(FullError, match="the disk is full"):
        objects.write_bytes(str(small_disk / "big"), b"x" * 5 * MIB)
    assert entries(small_disk) == [copy_of(path)]


@pytest.mark.s3
def test_a_disk_full_of_copies_in_use_is_busy(s3: SeaweedServer, small_disk: Path) -> None:
    """The limit is far away, and the disk is small: what is in the way goes away by itself."""
    held, wanted = (put(s3, f"disk-{name}.svs", 3 * MIB)[0] for name in ("held", "wanted"))
    with start_hold(held) as holder, ThreadPoolExecutor(1) as pool:
        assert said(holder) == "has"
        with pytest.raises(BusyError, match="in use"), local_copy(wanted, wait_s=0.2):
            pass
        waits = pool.submit(_size, wanted)
        until(lambda: tickets(small_disk) == 1)
        holder.communicate()
        assert waits.result(timeout=30) == 3 * MIB


def _size(uri: str) -> int:
    with local_copy(uri, wait_s=20) as path:
        return path.stat().st_size


@pytest.mark.s3
def test_a_disk_without_room_for_anything(s3: SeaweedServer, small_disk: Path) -> None:
    uri, _ = put(s3, "disk-none.svs", 1)
    with suppress(OSError):
        (small_disk / "somebody else's").write_bytes(b"x" * 5 * MIB)
    with pytest.raises(FullError, match=r"slide disk-none\.svs: the disk of the cache"), local_copy(uri):
        pass
    assert [path.name for path in entries(small_disk)] == ["somebody else's"]


def series_in(server: SeaweedServer, data_dir: Path, prefix: str) -> str:
    """A folder with a DICOM series of two files, another series, a slide, and a folder below; returns its URI."""
    root = f"s3://{server.bucket}/cache/{prefix}"
    for name in ("boxes_0.dcm", "boxes_1.dcm", "jpeg.dicom", "small.svs"):
        objects.write_bytes(f"{root}/{name}", (data_dir / "wsi" / name).read_bytes())
    objects.write_bytes(f"{root}/older/boxes_2.dcm", (data_dir / "wsi" / "boxes_0.dcm").read_bytes())
    return root


def pixels(path: Path) -> list[bytes]:
    with openslide.OpenSlide(str(path)) as slide:
        return [slide.read_region((0, 0), n, size).tobytes() for n, size in enumerate(slide.level_dimensions)]


@pytest.mark.s3
def test_a_dicom_file_stands_for_its_series(s3: SeaweedServer, folder: Path, data_dir: Path) -> None:
    root, wsi = series_in(s3, data_dir, "dicom"), data_dir / "wsi"
    for name, others in (("boxes_1.dcm", ["boxes_0.dcm"]), ("boxes_0.dcm", ["boxes_1.dcm"]), ("jpeg.dicom", [])):
        version = slide_stat(f"{root}/{name}")
        assert version.size == sum((wsi / file).stat().st_size for file in (name, *others))
        with local_copy(f"{root}/{name}", etag=version.etag) as path:
            staged = {hashlib.md5(data).digest() for data in contents(path).values()}  # noqa: S324
            assert staged == {hashlib.md5((wsi / file).read_bytes()).digest() for file in (name, *others)}  # noqa: S324
            assert pixels(path) == pixels(wsi / name)
    alone = folder.parent / "alone.dcm"
    alone.write_bytes((wsi / "boxes_1.dcm").read_bytes())
    with pytest.raises(openslide.OpenSlideError, match="No pyramid levels"):
        pixels(alone)  # a thumbnail: without its series it is no slide


def test_a_local_series_has_the_version_of_all_its_files(tmp_path: Path, data_dir: Path) -> None:
    for name in ("boxes_0.dcm", "boxes_1.dcm"):
        (tmp_path / name).write_bytes((data_dir / "wsi" / name).read_bytes())
    uri = (tmp_path / "boxes_0.dcm").as_uri()
    first = slide_stat(uri).etag
    for etag in (first, objects.stat(uri).etag):
        with local_copy(uri, etag=etag) as path:
            assert path == tmp_path / "boxes_0.dcm"
    os.utime(tmp_path / "boxes_1.dcm", ns=(1, 1))
    assert slide_stat(uri).etag != first
    with pytest.raises(ChangedError, match="the slide has changed"), local_copy(uri, etag=first):
        pass


def ngr(rgb: np.ndarray) -> bytes:
    """An image in the format of VMU slides: 12 bits a channel, uncompressed."""
    height, width, _ = rgb.shape
    header = struct.pack("<2s2xiii", b"GN", width, height, width).ljust(24, b"\0") + struct.pack("<i", 28)
    return header + (rgb.astype("<u2") << 4).tobytes()


@pytest.mark.s3
def test_a_key_file_stands_for_what_it_names(s3: SeaweedServer, folder: Path) -> None:
    """A small VMU that OpenSlide opens; VMS is the same with JPEGs."""
    root = f"s3://{s3.bucket}/cache/vmu"
    image = np.random.default_rng(0).integers(0, 256, (64, 128, 3))
    keys = "[Uncompressed Virtual Microscope Specimen]\nMapFile=map 1.ngr\nBitsPerPixel=36\nPixelOrder=RGB\n"
    keys += "ImageFile={}\nImageFile(1)=other focal plane.ngr\nOptimisationFile=not there.opt\n"
    objects.write_bytes(f"{root}/full.ngr", ngr(image))
    objects.write_bytes(f"{root}/map 1.ngr", ngr(image[::8, ::8]))
    objects.write_bytes(f"{root}/a.vmu", keys.format("full.ngr").encode())
    with local_copy(f"{root}/a.vmu") as path, openslide.OpenSlide(str(path)) as slide:
        assert set(contents(path)) == {"slide.vmu", "full.ngr", "map 1.ngr"}
        assert (np.asarray(slide.read_region((0, 0), 0, (128, 64)))[..., :3] == image).all()
    for named, message in (
        ("gone.ngr", "names the file 'gone.ngr', which is not beside it"),
        ("../vmu/full.ngr", "names the file '../vmu/full.ngr', expected one beside it"),
        ("/etc/passwd", "expected one beside it"),
        ("..", "cannot be the name of a file"),
    ):
        objects.write_bytes(f"{root}/b.vmu", keys.format(named).encode())
        with pytest.raises(InputError, match=message), local_copy(f"{root}/b.vmu"):
            pass
    objects.write_bytes(f"{root}/b.vmu", b"ImageFile=1\n")
    with pytest.raises(InputError, match="not a key file"), local_copy(f"{root}/b.vmu"):
        pass
    objects.write_bytes(f"{root}/b.vmu", b"x" * 100_000)
    with pytest.raises(InputError, match="100000 bytes, expected a key file of 65536"), local_copy(f"{root}/b.vmu"):
        pass


@pytest.mark.s3
def test_an_mrxs_comes_with_its_folder(s3: SeaweedServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, files = put_mrxs(s3, "with", MRXS | {"deep/Data 2.dat": 7})
    monkeypatch.setenv("UADRAY_CACHE_BYTES", str(2 * MIB))
    with local_copy(uri, etag=slide_stat(uri).etag) as path:
        assert contents(path) == files
    with local_copy(uri, etag=objects.stat(uri).etag) as again:
        assert again == path
    assert used_bytes(folder) == slide_stat(uri).size == sum(map(len, files.values()))
    with local_copy(put(s3, "single.svs")[0]):  # both do not fit: the whole folder makes room
        assert len(entries(folder)) == 1
    monkeypatch.setenv("UADRAY_CACHE_BYTES", str(MIB))
    with pytest.raises(FullError, match="UADRAY_CACHE_BYTES allows"), local_copy(uri):
        pass
    with pytest.raises(NotFoundError, match=r"bare\.mrxs: nothing is in .*/bare/"):
        slide_files(put(s3, "bare.mrxs", 1)[0])
    monkeypatch.setattr("uadray.storage.slide_files.MAX_FILES", 4)
    with pytest.raises(InputError, match=r"with\.mrxs: more than 4 objects in .*/with/, expected the files of one"):
        slide_files(uri)


@pytest.mark.s3
@pytest.mark.parametrize("fetch", [3, 4])
def test_a_member_replaced_or_added_while_the_slide_is_staged(
    s3: SeaweedServer, folder: Path, fetch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Data0000.dat` is the second file that is fetched: one that is replaced afterwards was not torn, but is mixed."""
    sizes = {"Data0000.dat": 100, "Index.dat": 200, "Slidedat.ini": 300}
    for name in ("Data0000.dat", "Data0001.dat", "Slidedat.ini"):
        uri, _ = put_mrxs(s3, f"replaced-{fetch}-{name}", sizes)
        with monkeypatch.context() as patch:
            new = f"{uri.removesuffix('.mrxs')}/{name}"
            before(patch, partial(objects.write_bytes, new, b"x"), fetch=fetch)
            with pytest.raises(ChangedError, match="changed since it was looked at"), local_copy(uri):
                pass
        assert entries(folder) == []


def flip(path: Path, *, at: int = 1000, stamp: bool = False) -> None:
    """Damage a byte, keep the length; with `stamp` the times too, as far as a program can."""
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    if stamp:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.s3
@pytest.mark.parametrize(
    "harm",
    [
        lambda copy, file: flip(file),
        lambda copy, file: flip(file, stamp=True),
        lambda copy, file: os.truncate(file, 999),
        lambda copy, file: file.write_bytes(bytes(len(file.read_bytes()))),
        lambda copy, file: file.unlink(),
        lambda copy, file: (copy / "record.json").unlink(),
        lambda copy, file: (copy / "record.json").write_bytes(b'{"boot": "", "files": {}}'),
        lambda copy, file: (copy / "record.json").write_bytes(b"\xff"),
    ],
    ids=["byte", "byte and time", "cut", "zeros", "gone", "no record", "empty record", "broken record"],
)
def test_a_copy_that_has_suffered_is_never_read(
    s3: SeaweedServer, folder: Path, harm: Callable[[Path, Path], object]
) -> None:
    uri, files = put_mrxs(s3, "harmed", {"Data0000.dat": 5000, "Slidedat.ini": 10})
    with local_copy(uri) as path:
        pass
    harm(copy_of(path), path.parent / "slide" / "Data0000.dat")
    with local_copy(uri) as path:
        assert contents(path) == files
    assert len(entries(folder)) == 1


@pytest.mark.s3
def test_a_copy_is_read_whole_only_where_the_disk_shows_a_difference(
    s3: SeaweedServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, data = put(s3, "touched.svs", 5000)
    compared = []
    monkeypatch.setattr(copies, "PART_BYTES", 1000)
    compare = copies._is_as_recorded
    monkeypatch.setattr(copies, "_is_as_recorded", lambda *args: compared.append(1) or compare(*args))

    def opened(inode: int | None) -> tuple[int, int]:
        with local_copy(uri) as path:
            assert path.read_bytes() == data
            assert inode in (None, path.stat().st_ino)
            return path.stat().st_ino, len(compared)

    with local_copy(uri) as path:
        inode, record = path.stat().st_ino, copy_of(path) / "record.json"
    assert opened(inode) == (inode, 0)
    os.utime(path)
    assert [opened(inode)[1] for _ in range(2)] == [1, 1]  # compared once, and noted
    rebooted = json.loads(record.read_bytes()) | {"boot": "before"}
    record.write_text(json.dumps(rebooted))
    assert [opened(inode)[1] for _ in range(2)] == [2, 2]
    flip(path)  # under a file system that shows nothing: the record says what the disk shows
    found = path.stat()
    rebooted["files"]["slide.svs"]["stamp"] = [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]
    record.write_text(json.dumps(rebooted))
    assert opened(None)[1] == 3
    assert len(entries(folder)) == 1


@pytest.mark.s3
def test_damage_is_found_by_any_number_at_once(s3: SeaweedServer, folder: Path) -> None:
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
    assert len(entries(folder)) == 1


class Wire:
    """A TCP proxy before a server, which may alter what passes: `up` to the server, `down` from it."""

    def __init__(self, upstream: str, *, up: Callable[[bytes], bytes], down: Callable[[bytes], bytes]) -> None:
        parts = urlsplit(upstream)
        self._to, self._up, self._down = (str(parts.hostname), int(parts.port or 80)), up, down
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        self._threads.append(threading.Thread(target=target, args=args, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._socket.accept()[0]
                server = socket.create_connection(self._to)
                self._ends += [client, server]
                self._start(self._pump, client, server, self._up)
                self._start(self._pump, server, client, self._down)

    def _pump(self, source: socket.socket, sink: socket.socket, change: Callable[[bytes], bytes]) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(change(data))
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for end in (self._socket, *self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in (self._socket, *self._ends):
            end.close()


@pytest.mark.s3
@pytest.mark.parametrize("times", [1, 99])
def test_damage_on_the_wire_is_noticed(
    s3: SeaweedServer, folder: Path, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, data = put(s3, "wire.svs", 300_000)
    left = list(range(times))

    def harm(passing: bytes) -> bytes:
        if len(passing) < 2000 or b"HTTP/1." in passing or not left:
            return passing
        return passing[:1000] + bytes([passing[1000] ^ (1 + left.pop() % 255)]) + passing[1001:]

    wire = Wire(s3.endpoint, up=lambda passing: passing, down=harm)
    monkeypatch.setenv("AWS_ENDPOINT_URL", wire.endpoint)
    try:
        if times == 1:
            with local_copy(uri) as path:
                assert path.read_bytes() == data
            assert left == []
        else:
            with pytest.raises(UnreachableError, match=r"wire\.svs: arrives damaged"), local_copy(uri):
                pass
            assert entries(folder) == []
    finally:
        wire.close()


@pytest.mark.s3
def test_an_etag_that_only_looks_like_an_md5(s3: SeaweedServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of objects that KMS encrypts. Found out by a second download, once for a bucket and process."""
    uris = [f"s3://{s3.public_bucket}/kms-{number}.svs" for number in range(2)]
    for uri in uris:
        objects.write_bytes(uri, uri.encode() * 1000)
    etags = {objects.stat(uri).etag.encode(): hashlib.sha256(uri.encode()).hexdigest()[:32].encode() for uri in uris}

    def replaced(pairs: dict[bytes, bytes], passing: bytes) -> bytes:
        for old, new in pairs.items():
            passing = passing.replace(old, new)
        return passing

    wire = Wire(
        s3.endpoint,
        up=lambda passing: replaced({new: old for old, new in etags.items()}, passing),
        down=lambda passing: replaced(etags, passing),
    )
    fetched, fetch = [], copies._fetch
    try:
        with monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", wire.endpoint)
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                patch.delenv(name)  # a signature would cover the etag
            patch.setattr(copies, "_no_md5", set())
            patch.setattr(copies, "_fetch", lambda *args, **kwargs: fetched.append(1) or fetch(*args, **kwargs))
            for uri, fetches in zip(uris, (2, 3), strict=True):
                with local_copy(uri) as path:
                    assert path.read_bytes() == uri.encode() * 1000
                assert len(fetched) == fetches
    finally:
        wire.close()
        for uri in uris:
            objects.delete(uri)
