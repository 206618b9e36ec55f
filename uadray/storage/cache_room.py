"""Room in the slide cache: who gets it, and which copies are evicted for it.

    .lock                      held while bytes are counted, room is taken or a copy is removed
    .wait-<time>-<random>      a place in the line of those who want room; locked while its owner lives
    <32 hex digits>            a copy; whoever reads it holds a shared lock
    <32 hex digits>.part       a copy that is being made; whoever makes it holds an exclusive lock

    stand in line ---> first of those who live? ---> within UADRAY_CACHE_BYTES? ---> disk has room? ---> allocated
        ^                       | no                        | no                         | no
        |                       |                 evict copies that nobody holds, least recently used first;
        +---- wait 0.1 s <------+----------------- leftovers of the dead before them <---+
                  |
                  +--- nothing moved for `wait_s` ---> BusyError

The kernel drops the locks of the dead. A `.part` that nobody holds is a leftover. Those who came later wait, so that a
large slide gets its turn as a small one does.
"""

import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from uadray.errors import BusyError, FullError, InputError
from uadray.stage_seconds import tally
from uadray.storage import slide_copy
from uadray.storage.slide_files import SlideFiles

DEFAULT_BYTES = 20 * 2**30
_PARTIAL = ".part"
_TICKET = ".wait-"
_POLL_S = 0.1
_ENTRY = re.compile(r"[0-9a-f]{32}(\.part)?")  # nothing else in the folder is counted or touched


class WantedCopy(NamedTuple):
    """What is to be copied, where to, and how long to wait for room while nothing moves."""

    files: SlideFiles
    copy: Path
    slide: str
    wait_s: float

    @property
    def partial(self) -> Path:
        """The folder in which the copy is made."""
        return self.copy.with_name(self.copy.name + _PARTIAL)


def reserve(wanted: WantedCopy) -> None:
    """Allocate the whole size of a copy in its `.part`, in turn, evicting as many copies as that takes.

    Raises:
        BusyError: nothing moved for `wait_s`.
        FullError: the slide is larger than the cache or its disk.
        OSError: the disk is full of other things, or fails.
    """
    limit, size, folder = _limit_bytes(), wanted.files.size, wanted.copy.parent
    if size > limit:
        raise FullError(
            f"{wanted.slide}: {size} bytes, and UADRAY_CACHE_BYTES allows {limit} in {folder}; set it to {size} at "
            "least"
        )
    if size > shutil.disk_usage(folder).total:
        raise disk_full(wanted)  # waiting and evicting would be in vain
    state, since = _movement(folder), time.monotonic()
    with _in_line(folder) as ticket:
        while True:
            with locked(folder):
                if _is_first(ticket) and _make_room(folder, size, limit) and _allocate(wanted):
                    return
            time.sleep(_POLL_S)
            now = _movement(folder)
            if now != state:
                state, since = now, time.monotonic()
            elif time.monotonic() - since > wanted.wait_s:
                raise BusyError(
                    f"{wanted.slide}: no room for {size} bytes in {folder}: all copies are in use, and nothing moved "
                    f"for {wanted.wait_s:.0f} s; raise UADRAY_CACHE_BYTES ({limit}) or read fewer slides at once"
                )


def is_full(error: OSError) -> bool:
    """Tell whether an error says that a disk is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full(wanted: WantedCopy) -> FullError:
    """Return the error that says so."""
    return FullError(
        f"{wanted.slide}: the disk of the cache {wanted.copy.parent} is full, {wanted.files.size} bytes needed; "
        "free some, or set UADRAY_CACHE to a larger disk"
    )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of the cache."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Tell whether an open folder still has this name. If not, its lock protects nothing."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def remove(copy: Path) -> bool:
    """Remove a copy and tell whether all of it is gone. It is renamed first: a copy is never half there."""
    doomed = copy.with_name(secrets.token_hex(16) + _PARTIAL)
    copy.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
    return not doomed.exists()


def empty(folder: Path) -> None:
    """Remove what is in a folder."""
    for leftover in folder.iterdir():
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _limit_bytes() -> int:
    text = os.environ.get("UADRAY_CACHE_BYTES") or str(DEFAULT_BYTES)
    if not text.isdecimal():
        raise InputError(f"UADRAY_CACHE_BYTES is {text!r}; expected a number of bytes, like {DEFAULT_BYTES}")
    return int(text)


@contextmanager
def _in_line(folder: Path) -> Iterator[Path]:
    """Hold a place in the line of those who want room. All processes of a machine have the same monotonic clock."""
    ticket = folder / f"{_TICKET}{time.monotonic_ns():020d}-{secrets.token_hex(4)}"
    descriptor = os.open(ticket, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield ticket
    finally:
        ticket.unlink(missing_ok=True)
        os.close(descriptor)


def _is_first(ticket: Path) -> bool:
    """Tell whether nobody who came before still lives. The places of the dead are removed."""
    for other in sorted(path for path in ticket.parent.iterdir() if path.name.startswith(_TICKET) and path < ticket):
        with suppress(FileNotFoundError):
            descriptor = os.open(other, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                other.unlink()
            except BlockingIOError:
                return False
            finally:
                os.close(descriptor)
    return True


def _movement(folder: Path) -> set[tuple[str, int]]:
    """Return what differs once a copy has come or gone, or a byte of one was written; not if somebody came to wait."""
    state = set()
    for path in folder.iterdir():
        if _ENTRY.fullmatch(path.name):
            written = slide_copy.last_write_ns(path) if path.suffix == _PARTIAL else 1
            if written:
                state.add((path.name, written))
    return state


def _make_room(folder: Path, size: int, limit: int) -> bool:
    """Evict until `size` more bytes are within the limit; False if too much is in use."""
    entries = _entries(folder)
    used = sum(n_bytes for _, n_bytes in entries)
    for path, n_bytes in entries:
        if used + size <= limit:
            break
        used -= n_bytes if _evict(path, n_bytes) else 0
    return used + size <= limit


def _allocate(wanted: WantedCopy) -> bool:
    """Take the room on the disk, which may have less than the limit allows; False if copies in use have the rest.

    Raises:
        OSError: the disk is full, and not of copies.
    """
    others = iter([entry for entry in _entries(wanted.copy.parent) if entry[0] != wanted.partial])
    while True:
        try:
            slide_copy.allocate(wanted.partial, wanted.files)
        except OSError as error:
            if not is_full(error):
                raise
            if any(_evict(path, n_bytes) for path, n_bytes in others):
                continue
            empty(wanted.partial)
            if all(path == wanted.partial or not n_bytes for path, n_bytes in _entries(wanted.copy.parent)):
                raise
            return False
        else:
            return True


def _entries(folder: Path) -> list[tuple[Path, int]]:
    """List copies and parts of copies with their bytes: leftovers first, then the least recently used."""
    ordered = []
    for path in folder.iterdir():
        if _ENTRY.fullmatch(path.name):
            with suppress(FileNotFoundError):  # evicted or renamed just now
                ordered.append((path.suffix != _PARTIAL, path.stat().st_mtime_ns, path))
    return [(path, slide_copy.slide_bytes(path)) for _, _, path in sorted(ordered)]


def _evict(copy: Path, n_bytes: int) -> bool:
    """Remove a copy of so many bytes, unless somebody holds it."""
    try:
        descriptor = os.open(copy, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_gone = is_at(descriptor, copy) and remove(copy)
        if is_gone and copy.suffix != _PARTIAL:
            tally("cache_evicted_bytes", n_bytes)
        return is_gone
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
