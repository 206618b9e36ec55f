"""Node-local copies of slides in object storage, for readers that need a file.

    with local_copy("s3://bucket/a.ndpi", slide_id="a") as path:
        ...                                     # the copy is not evicted before the block ends

Copies lie in `$UADRAY_CACHE_SLIDES` or else `$UADRAY_CACHE/slides` (by default `~/.cache/uadray/slides`), named after
URI and etag, and take at most `UADRAY_CACHE_BYTES` (by default 20 GiB): the least recently used that nobody holds goes
first. Any number of processes may share the folder, on a local disk:

- who reads a copy holds a shared lock on it; who evicts needs an exclusive one and does not wait for it;
- who downloads holds an exclusive lock on `<name>.part`, and others who want the same wait for it; the whole size is
  allocated at once, so that a full disk shows first. The kernel drops the locks of the dead: a `.part` that nobody
  holds is a leftover, overwritten by the next who wants it and evicted before any copy;
- `.lock` guards the count of bytes.
"""

import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from uadray import storage
from uadray.errors import InputError
from uadray.uris import ChangedError, FullError, ObjectInfo, is_s3, local_path, name

DEFAULT_BYTES = 20 * 2**30
_PART_BYTES = 8 * 2**20
_PARTS_AT_ONCE = 8
_PARTIAL = ".part"
_MANY_FILES = (".mrxs", ".vms", ".vmu")  # formats whose pixels lie in other files


@contextmanager
def local_copy(
    uri: str, *, slide_id: str | None = None, etag: str | None = None, wait_s: float = 600
) -> Iterator[Path]:
    """Give a local path: of a local file its own, of an S3 object that of a copy, held until the block ends.

    Args:
        uri: the slide.
        slide_id: for error messages.
        etag: what it has to be; None takes whatever is there.
        wait_s: how long to wait for room when every copy in a full cache is held by others.

    Raises:
        ChangedError: the etag is another, or changes meanwhile.
        FullError: the disk is full, or the slide does not fit into the cache.
        InputError: the slide consists of several files (MRXS, VMS), which only local folders can hold.
    """
    info = storage.stat(uri)
    if etag is not None and info.etag != etag:
        raise ChangedError(f"{uri}: the object has changed since it was looked at (etag {etag}, now {info.etag})")
    if not is_s3(uri):
        yield local_path(uri)
        return
    if PurePosixPath(uri).suffix.lower() in _MANY_FILES:
        raise InputError(f"{uri}: {PurePosixPath(uri).suffix} slides have many files; mount the bucket or copy them")
    path = _folder() / _file_name(info)
    descriptor = _opened(path, info.size)
    while descriptor is None:
        _download(info, path, slide=f"slide {slide_id or name(uri)}", wait_s=wait_s)
        descriptor = _opened(path, info.size)
    try:
        yield path
    finally:
        os.close(descriptor)


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


def _file_name(info: ObjectInfo) -> str:
    suffix = PurePosixPath(info.uri).suffix
    key = hashlib.sha256(f"{info.uri}\n{info.etag}".encode()).hexdigest()[:32]
    return key + (suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,12}", suffix) and suffix != _PARTIAL else "")


def _opened(path: Path, size: int) -> int | None:
    """Open a copy, hold it and mark it as just used; None where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    found = os.fstat(descriptor)
    if found.st_nlink == 0 or found.st_size != size:  # evicted while we waited, or tampered with
        if found.st_nlink:
            path.unlink(missing_ok=True)
        os.close(descriptor)
        return None
    os.utime(descriptor)
    return descriptor


def _download(info: ObjectInfo, path: Path, *, slide: str, wait_s: float) -> None:
    """Make the copy, unless somebody else just did."""
    partial = path.with_name(path.name + _PARTIAL)
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not _is_at(descriptor, partial):
            return  # it has become the copy, or was given up
        if path.exists():
            partial.unlink()
            return
        try:
            os.ftruncate(descriptor, 0)
            _reserve(descriptor, info, path.parent, slide=slide, wait_s=wait_s)
            _fill(descriptor, info)
            os.fsync(descriptor)
            partial.replace(path)
        except BaseException as error:
            partial.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _disk_full(info, path.parent, slide) from error
            raise
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Tell whether the open file still has this name: its lock is worth nothing otherwise."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _fill(descriptor: int, info: ObjectInfo) -> None:
    starts = range(0, info.size, _PART_BYTES)
    for first in range(0, len(starts), _PARTS_AT_ONCE):
        ranges = [(start, min(start + _PART_BYTES, info.size)) for start in starts[first : first + _PARTS_AT_ONCE]]
        for (start, _), blob in zip(ranges, storage.read_ranges(info.uri, ranges, etag=info.etag), strict=True):
            view, done = memoryview(blob), 0
            while done < len(view):
                done += os.pwrite(descriptor, view[done:], start + done)


def _reserve(descriptor: int, info: ObjectInfo, folder: Path, *, slide: str, wait_s: float) -> None:
    """Allocate the whole size, after evicting as much as that takes."""
    limit = _limit_bytes()
    if info.size > limit:
        raise FullError(f"{slide}: {info.size} bytes, and UADRAY_CACHE_BYTES allows {limit} in {folder}")
    deadline = time.monotonic() + wait_s
    while True:
        with _locked(folder):
            while _used_bytes(folder) + info.size > limit and _evict_one(folder):
                pass
            if _used_bytes(folder) + info.size <= limit:
                while not _allocate(descriptor, info.size):
                    if not _evict_one(folder):
                        raise _disk_full(info, folder, slide)
                return
        if time.monotonic() > deadline:
            raise FullError(
                f"{slide}: no room for {info.size} bytes in {folder} after {wait_s:.0f} s: all copies are in use; "
                f"raise UADRAY_CACHE_BYTES ({limit}) or read fewer slides at once"
            )
        time.sleep(0.1)


def _disk_full(info: ObjectInfo, folder: Path, slide: str) -> FullError:
    return FullError(f"{slide}: the disk of the cache {folder} is full, {info.size} bytes needed; set UADRAY_CACHE")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _allocate(descriptor: int, size: int) -> bool:
    """Take the room on the disk; False where there is not enough."""
    try:
        if size:
            os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        os.ftruncate(descriptor, 0)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return False
    return True


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """List copies and parts of copies: leftovers first, then the least recently used."""
    found = []
    for path in folder.iterdir():
        try:
            if path.name != ".lock":
                found.append((path, path.stat()))
        except FileNotFoundError:
            continue  # evicted or renamed just now
    return sorted(found, key=lambda item: (item[0].suffix != _PARTIAL, item[1].st_mtime_ns))


def _used_bytes(folder: Path) -> int:
    return sum(found.st_size for _, found in _files(folder))


def _evict_one(folder: Path) -> bool:
    """Remove the first file that nobody holds."""
    for path, _ in _files(folder):
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                path.unlink()
                return True
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
    return False
