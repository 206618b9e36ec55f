"""Node-local copies of slides in object storage, for readers that need a file.

    with local_copy("s3://bucket/a.ndpi", slide_id="a") as path:
        ...                                     # the copy is not evicted before the block ends

Copies lie in `$UADRAY_CACHE_SLIDES` or else `$UADRAY_CACHE/slides` (by default `~/.cache/uadray/slides`), each a folder
named after URI and etag (see `copies`), with all files of the slide (see `slide_files`). They take at most
`UADRAY_CACHE_BYTES` (by default 20 GiB): the least recently used that nobody holds goes first. Any number of processes
may share the cache, on a local disk:

- who reads a copy holds a shared lock on its folder; who evicts needs an exclusive one and does not wait for it;
- who downloads holds an exclusive lock on `<name>.part`, and others who want the same wait for it; the whole size is
  allocated at once, so that a full disk shows first. The kernel drops the locks of the dead: a `.part` that nobody
  holds is a leftover, emptied by the next who wants it and evicted before any copy;
- who removes a folder renames it to a `.part` first: what is called a copy is always whole;
- `.lock` guards the count of bytes, and removal;
- who wants room stands in line: `.wait-<time>-<random>`, locked while its owner lives, which may take room, and have
  copies evicted for it, when no older one is there. A large slide gets its turn as a small one does.

A full cache cannot deadlock tasks that hold one copy each, as those of a screening do: who waits for room holds none,
and the others go on. Who holds a copy and wants another (training readers keep several slides open) may wait for others
that do the same: after `wait_s` in which nothing moved one of them gets a `BusyError` and lets go. So give the cache
room for all slides that are read at a time on a node; a task that yields inside the block holds its copy while its
consumer is slow.
"""

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from uadray.errors import BusyError, ChangedError, FullError, InputError, WorkError
from uadray.storage import copies, objects
from uadray.storage.slide_files import SlideFiles, has_many_files, slide_files
from uadray.storage.uris import is_s3, local_path, name

DEFAULT_BYTES = 20 * 2**30
_PARTIAL = ".part"
_TICKET = ".wait-"
_POLL_S = 0.1
_OURS = re.compile(r"[0-9a-f]{32}(\.part)?")  # nothing else in the folder is counted or touched


class _Order(NamedTuple):
    """What is to be copied, where to, and how long to wait for room while nothing moves."""

    files: SlideFiles
    copy: Path
    slide: str
    wait_s: float

    @property
    def partial(self) -> Path:
        return self.copy.with_name(self.copy.name + _PARTIAL)


@contextmanager
def local_copy(
    uri: str, *, slide_id: str | None = None, etag: str | None = None, wait_s: float = 600
) -> Iterator[Path]:
    """Give a local path: of a local file its own, of an S3 object that of a copy, held until the block ends.

    Args:
        uri: the slide.
        slide_id: for error messages.
        etag: what it has to be: that of `members.slide_stat`, or of the object alone; None takes whatever is there.
        wait_s: how long to wait for room where all of it is in use and nothing moves: no byte is copied, no copy comes
            or goes. As long as something does there is no limit.

    Raises:
        BusyError: so long nothing moved. It may go well later, or with fewer readers at once.
        ChangedError: the etag is another, or that of any of its files changes meanwhile.
        FullError: the disk is full of other things, or the slide is larger than the cache may be.
        InputError: files of it are missing or cannot be had, or its folder holds absurdly many.
        WorkError: the cache's disk fails.
    """
    if not is_s3(uri):
        _check_etag(uri, etag)
        yield local_path(uri)
        return
    files = slide_files(uri)
    if etag not in (None, files.etag, files.main.info.etag):
        raise _changed(uri, etag, files.etag)
    folder = _folder()
    key = hashlib.sha256(f"{uri}\n{files.etag}".encode()).hexdigest()[:32]
    order = _Order(files, folder / key, f"slide {slide_id or name(uri)}", wait_s)
    with _explained(order):
        descriptor = _opened(order)
        while descriptor is None:
            descriptor = _downloaded(order)
            descriptor = _opened(order) if descriptor is None else descriptor
    try:
        yield copies.main_path(order.copy, files)
    finally:
        os.close(descriptor)


def _check_etag(uri: str, etag: str | None) -> None:
    """Check a local slide; the other files of one are looked at only where its own etag is not the expected one."""
    found = objects.stat(uri).etag
    if etag in (None, found) or (has_many_files(uri) and etag == slide_files(uri).etag):
        return
    raise _changed(uri, etag, found)


def _changed(uri: str, etag: str | None, found: str) -> ChangedError:
    return ChangedError(f"{uri}: the slide has changed since it was looked at (etag {etag}, now {found})")


def _folder() -> Path:
    home = Path(os.environ.get("UADRAY_CACHE") or Path.home() / ".cache" / "uadray")
    folder = Path(os.environ.get("UADRAY_CACHE_SLIDES") or home / "slides")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: the slide cache cannot be made ({error.strerror}); set UADRAY_CACHE") from error
    return folder


def _limit_bytes() -> int:
    text = os.environ.get("UADRAY_CACHE_BYTES") or str(DEFAULT_BYTES)
    if not text.isdecimal():
        raise InputError(f"UADRAY_CACHE_BYTES is {text!r}; expected a number of bytes, like {DEFAULT_BYTES}")
    return int(text)


@contextmanager
def _explained(order: _Order) -> Iterator[None]:
    """Turn the disk's errors into one line."""
    try:
        yield
    except OSError as error:
        if _is_full(error):
            raise _disk_full(order) from error
        folder = order.copy.parent
        raise WorkError(
            f"{order.slide}: the cache {folder} fails ({error.strerror or error}); set UADRAY_CACHE to a local disk "
            "that you may write to"
        ) from error


def _opened(order: _Order) -> int | None:
    """Open a copy, hold it and mark it as just used; None where there is none, or one that has suffered."""
    try:
        descriptor = os.open(order.copy, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if not _is_at(descriptor, order.copy):
            return None  # it was evicted while we waited
        if copies.is_intact(order.copy, order.files):
            os.utime(descriptor)
            return os.dup(descriptor)
        with _locked(order.copy.parent):
            if _is_at(descriptor, order.copy):  # nobody else was quicker
                _remove(order.copy)
        return None
    finally:
        os.close(descriptor)


def _downloaded(order: _Order) -> int | None:
    """Make the copy and hold it; None where somebody else just did, or where it must be tried again."""
    with suppress(FileExistsError):
        order.partial.mkdir(mode=0o700)
    try:
        descriptor = os.open(order.partial, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None  # it has become the copy, or was taken for a leftover
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not _is_at(descriptor, order.partial):
            return None
        if order.copy.exists():
            shutil.rmtree(order.partial)
            return None
        try:
            _stage(order)
        except BaseException:
            shutil.rmtree(order.partial, ignore_errors=True)
            raise
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return os.dup(descriptor) if _is_at(descriptor, order.copy) else None
    finally:
        os.close(descriptor)


def _stage(order: _Order) -> None:
    """Fill the `.part` that we hold, and make it the copy."""
    _empty(order.partial)
    _reserve(order)
    copies.fill(order.partial, order.files)
    if len(order.files.members) > 1:
        uri, etag = order.files.main.info.uri, order.files.etag
        found = slide_files(uri).etag
        if found != etag:
            raise _changed(uri, etag, found)
    order.partial.rename(order.copy)


def _empty(folder: Path) -> None:
    for leftover in folder.iterdir():
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _is_at(descriptor: int, path: Path) -> bool:
    """Tell whether the open folder still has this name: its lock is worth nothing otherwise."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _reserve(order: _Order) -> None:
    """Allocate the whole size when it is our turn, after evicting as much as that takes."""
    limit, size, folder = _limit_bytes(), order.files.size, order.copy.parent
    if size > limit:
        raise FullError(
            f"{order.slide}: {size} bytes, and UADRAY_CACHE_BYTES allows {limit} in {folder}; set it to {size} at least"
        )
    if size > shutil.disk_usage(folder).total:
        raise _disk_full(order)  # whoever waits or evicts copies for it does so in vain
    moved, since = _movement(folder), time.monotonic()
    with _in_line(folder) as ticket:
        while True:
            with _locked(folder):
                if _is_first(ticket) and _make_room(folder, size, limit) and _allocate(order):
                    return
            time.sleep(_POLL_S)
            now = _movement(folder)
            if now != moved:
                moved, since = now, time.monotonic()
            elif time.monotonic() - since > order.wait_s:
                raise BusyError(
                    f"{order.slide}: no room for {size} bytes in {folder}: all copies are in use, and nothing moved "
                    f"for {order.wait_s:.0f} s; raise UADRAY_CACHE_BYTES ({limit}) or read fewer slides at once"
                )


@contextmanager
def _in_line(folder: Path) -> Iterator[Path]:
    """A place in the line of those who want room. The clock is that of the machine, the same for all its processes."""
    ticket = folder / f"{_TICKET}{time.monotonic_ns():020d}-{secrets.token_hex(4)}"
    descriptor = os.open(ticket, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield ticket
    finally:
        ticket.unlink(missing_ok=True)
        os.close(descriptor)


def _is_first(ticket: Path) -> bool:
    """Whether nobody came before us who lives; the places of the dead are removed."""
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
    """What changes when a copy comes or goes, and when a byte of one is written; not when somebody comes to wait."""
    seen = set()
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name):
            written = copies.last_write_ns(path) if path.suffix == _PARTIAL else 1
            if written:
                seen.add((path.name, written))
    return seen


def _make_room(folder: Path, size: int, limit: int) -> bool:
    """Evict until `size` more bytes are within the limit; False where too much is in use."""
    found = _entries(folder)
    used = sum(n_bytes for _, n_bytes in found)
    for path, n_bytes in found:
        if used + size <= limit:
            break
        used -= n_bytes if _evict(path) else 0
    return used + size <= limit


def _allocate(order: _Order) -> bool:
    """Take the room on the disk, which may have less than the limit allows; False where copies in use have the rest.

    Raises:
        OSError: the disk is full, and not of copies.
    """
    others = iter([path for path, _ in _entries(order.copy.parent) if path != order.partial])
    while True:
        try:
            copies.allocate(order.partial, order.files)
        except OSError as error:
            if not _is_full(error):
                raise
            if any(_evict(path) for path in others):
                continue
            _empty(order.partial)
            if all(path == order.partial or not n_bytes for path, n_bytes in _entries(order.copy.parent)):
                raise
            return False
        else:
            return True


def _is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _disk_full(order: _Order) -> FullError:
    return FullError(
        f"{order.slide}: the disk of the cache {order.copy.parent} is full, {order.files.size} bytes needed; "
        "free some, or set UADRAY_CACHE to a larger disk"
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _entries(folder: Path) -> list[tuple[Path, int]]:
    """List copies and parts of copies with their bytes: leftovers first, then the least recently used."""
    found = []
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name):
            with suppress(FileNotFoundError):  # evicted or renamed just now
                found.append((path.suffix != _PARTIAL, path.stat().st_mtime_ns, path))
    return [(path, copies.slide_bytes(path)) for _, _, path in sorted(found)]


def _evict(path: Path) -> bool:
    """Remove a copy that nobody holds."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _is_at(descriptor, path) and _remove(path)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _remove(path: Path) -> bool:
    """Rename a copy, so that nobody takes for one what is half removed, and remove it."""
    doomed = path.with_name(secrets.token_hex(16) + _PARTIAL)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
    return not doomed.exists()
