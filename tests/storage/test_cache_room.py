"""Room in the slide cache: held copies stay, others make room, in turn; full disks."""

import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from seaweed import SeaweedServer
from storage.cached_slides import (
    MIB,
    contents,
    copy_of,
    entries,
    put,
    put_mrxs,
    said,
    start_copy,
    start_hold,
    used_bytes,
)

from uadray.errors import BusyError, FullError, InputError
from uadray.storage import objects
from uadray.storage.local_copies import local_copy


@pytest.mark.s3
def test_the_least_recently_used_makes_room(
    s3: SeaweedServer, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert used_bytes(cache_folder) <= 3 * MIB


@pytest.mark.s3
def test_a_copy_in_use_stays(s3: SeaweedServer, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert not [path for path in entries(cache_folder) if path.suffix == ".part"]


@pytest.mark.s3
def test_who_waits_for_room_gets_it(s3: SeaweedServer, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UADRAY_CACHE_BYTES", str(MIB))
    uris = [put(s3, f"wait-{number}.svs")[0] for number in range(6)]
    most = 0

    def use(uri: str) -> None:
        nonlocal most
        with local_copy(uri, wait_s=60):
            most = max(most, used_bytes(cache_folder))
            time.sleep(0.05)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(use, uris))
    assert most == MIB


@pytest.mark.s3
def test_those_who_wait_for_each_other_do_not_wait_for_ever(
    s3: SeaweedServer, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
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
    assert used_bytes(cache_folder) <= 2 * MIB


@pytest.mark.s3
def test_a_slide_larger_than_the_cache(s3: SeaweedServer, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def tickets(cache_folder: Path) -> int:
    return sum(path.name.startswith(".wait-") for path in cache_folder.iterdir()) if cache_folder.exists() else 0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.s3
def test_who_waits_waits_as_long_as_bytes_arrive(
    s3: SeaweedServer, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
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
    assert tickets(cache_folder) == 0


@pytest.mark.s3
def test_room_is_given_in_turn(s3: SeaweedServer, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
            until(lambda: tickets(cache_folder) == n)  # noqa: B023
        processes[1].kill()
        processes[0].communicate()
        assert said(processes[2]) == "has"
        time.sleep(0.5)
        assert tickets(cache_folder) == 1  # the small one waits, though it would have fitted
        processes[2].communicate()
        assert said(processes[3]) == "has"
        assert tickets(cache_folder) == 0
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.s3
def test_a_folder_of_somebody_else_is_left_alone(
    s3: SeaweedServer, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sets the cache to a folder that holds other things loses none of them."""
    monkeypatch.setenv("UADRAY_CACHE_BYTES", str(MIB))
    (cache_folder / "thesis").mkdir(parents=True)
    (cache_folder / "thesis" / "only copy.tex").write_bytes(b"x" * MIB)
    (cache_folder / ("a" * 32)).write_bytes(b"a file with a name like ours")
    for number in range(2):
        with local_copy(put(s3, f"tenant-{number}.svs")[0]):
            assert (cache_folder / "thesis" / "only copy.tex").exists()
    assert len(entries(cache_folder)) == 3


@pytest.mark.s3
def test_many_threads_in_a_small_cache(s3: SeaweedServer, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert used_bytes(cache_folder) <= 300_000
    assert all(path.suffix == "" for path in entries(cache_folder))


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
