"""Copies of slides in S3 on the disk of this machine, for readers that need a file.

    with local_copy("s3://bucket/a.ndpi", slide_id="a") as path:
        ...                                     # the copy is not evicted before the block ends

Copies lie in `$UADRAY_CACHE_SLIDES` or else `$UADRAY_CACHE/slides` (by default `~/.cache/uadray/slides`), each a folder
named after URI and etag, with all files of the slide. They take at most `UADRAY_CACHE_BYTES` (by default 20 GiB). Any
number of processes may share the cache, on a local disk:

    <name> is there? -- yes --> shared lock --> intact? -- yes --> marked as just used, held until the block ends
          | no          ^                         | no
          v             |                      removed (renamed to a .part first), and made anew
    <name>.part, exclusive lock: others who want the same slide wait here
          |
    emptied --> room reserved (`cache_room`) --> downloaded, recorded (`slide_copy`) --> renamed to <name>

The whole size is allocated before the download, so that a full disk shows first. What is called <name> is always whole.

A full cache cannot deadlock tasks that hold one copy each, as those of a screening do: who waits for room holds none,
and the others go on. Readers that hold a copy and want another (training keeps several slides open) may wait for others
that do the same: after `wait_s` in which nothing moved one of them gets a `BusyError` and lets go. So give the cache
room for all slides that are read at a time on a node. A task that yields inside the block holds its copy while its
consumer is slow.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from uadray.errors import ChangedError, InputError, WorkError
from uadray.stage_seconds import tally
from uadray.storage import cache_room, objects, slide_copy
from uadray.storage.cache_room import WantedCopy
from uadray.storage.slide_files import has_many_files, slide_files
from uadray.storage.uris import is_s3, local_path, name


@contextmanager
def local_copy(
    uri: str, *, slide_id: str | None = None, etag: str | None = None, wait_s: float = 600
) -> Iterator[Path]:
    """Give a local path: of a local file its path, of an S3 object that of a copy, held until the block ends.

    Args:
        uri: the slide.
        slide_id: for error messages.
        etag: the expected one: that of `slide_files.slide_stat`, or of the object alone; None takes whatever is there.
        wait_s: how long to wait for room while all of it is in use and nothing moves: no byte is copied, no copy comes
            or goes. As long as something moves there is no limit.

    Raises:
        BusyError: nothing moved for so long. It may go well later, or with fewer readers at once.
        ChangedError: the etag is another, or that of any of the files changes during the download.
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
    wanted = WantedCopy(files, folder / key, f"slide {slide_id or name(uri)}", wait_s)
    with _explained(wanted):
        descriptor = _open(wanted)
        outcome = "hit" if descriptor is not None else "miss"
        tally(f"cache_{outcome}")
        tally(f"cache_{outcome}_bytes", files.size)
        while descriptor is None:
            descriptor = _make(wanted)
            descriptor = _open(wanted) if descriptor is None else descriptor
    try:
        yield slide_copy.main_path(wanted.copy, files)
    finally:
        os.close(descriptor)


def _check_etag(uri: str, etag: str | None) -> None:
    """Check a local slide. Its other files are looked at only if the etag of the first is not the expected one."""
    main_etag = objects.stat(uri).etag
    if etag in (None, main_etag) or (has_many_files(uri) and etag == slide_files(uri).etag):
        return
    raise _changed(uri, etag, main_etag)


def _changed(uri: str, etag: str | None, now: str) -> ChangedError:
    return ChangedError(f"{uri}: the slide has changed since it was looked at (etag {etag}, now {now})")


def _folder() -> Path:
    home = Path(os.environ.get("UADRAY_CACHE") or Path.home() / ".cache" / "uadray")
    folder = Path(os.environ.get("UADRAY_CACHE_SLIDES") or home / "slides")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: the slide cache cannot be made ({error.strerror}); set UADRAY_CACHE") from error
    return folder


@contextmanager
def _explained(wanted: WantedCopy) -> Iterator[None]:
    """Turn the disk's errors into one line."""
    try:
        yield
    except OSError as error:
        if cache_room.is_full(error):
            raise cache_room.disk_full(wanted) from error
        folder = wanted.copy.parent
        raise WorkError(
            f"{wanted.slide}: the cache {folder} fails ({error.strerror or error}); set UADRAY_CACHE to a local disk "
            "that you may write to"
        ) from error


def _open(wanted: WantedCopy) -> int | None:
    """Open a copy, hold it and mark it as just used; None if there is none, or one that is not intact."""
    try:
        descriptor = os.open(wanted.copy, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if not cache_room.is_at(descriptor, wanted.copy):
            return None  # it was evicted while we waited
        if slide_copy.is_intact(wanted.copy, wanted.files):
            os.utime(descriptor)
            return os.dup(descriptor)
        with cache_room.locked(wanted.copy.parent):
            if cache_room.is_at(descriptor, wanted.copy):  # nobody else has removed it
                cache_room.remove(wanted.copy)
        return None
    finally:
        os.close(descriptor)


def _make(wanted: WantedCopy) -> int | None:
    """Make the copy and hold it; None if another process just did, or if it must be tried again."""
    with suppress(FileExistsError):
        wanted.partial.mkdir(mode=0o700)
    try:
        descriptor = os.open(wanted.partial, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None  # it has become the copy, or was evicted as a leftover
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not cache_room.is_at(descriptor, wanted.partial):
            return None
        if wanted.copy.exists():
            shutil.rmtree(wanted.partial)
            return None
        try:
            _fill(wanted)
        except BaseException:
            shutil.rmtree(wanted.partial, ignore_errors=True)
            raise
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return os.dup(descriptor) if cache_room.is_at(descriptor, wanted.copy) else None
    finally:
        os.close(descriptor)


def _fill(wanted: WantedCopy) -> None:
    """Fill the `.part` that we hold, and make it the copy."""
    cache_room.empty(wanted.partial)
    cache_room.reserve(wanted)
    slide_copy.fill(wanted.partial, wanted.files)
    if len(wanted.files.members) > 1:
        uri, etag = wanted.files.main.info.uri, wanted.files.etag
        now = slide_files(uri).etag
        if now != etag:
            raise _changed(uri, etag, now)
    wanted.partial.rename(wanted.copy)
