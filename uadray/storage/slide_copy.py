"""One copy of a slide on the disk of this machine: allocating, downloading and checking it.

    <copy>/files/slide.svs      the slide; of one of several files all of them, in the folders they were in
    <copy>/record.json          how the disk shows each file: length, inode, times of modification and of change

    allocated --- every range, with If-Match, written and synced ---> filled --- record written and synced ---> recorded
                                                                                                                   |
    recorded, opened again:   the disk shows every file as recorded, with its length in S3 ---> intact, is read <---+
                              anything else, no record, a record of another format -----------> is downloaded again

A copy without a record is never read, so a crash cannot leave one that is half written. Whoever writes to a file later
changes its times. Bits that rot on the disk without a write are not noticed.
"""

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from uadray.storage import objects
from uadray.storage.slide_files import Member, SlideFiles

PART_BYTES = 8 * 2**20
"""What one request of a download asks for."""

PARTS_AT_ONCE = 8

_FORMAT = 2
"""Of the record. Copies whose record says another are downloaded again."""


class _Part(NamedTuple):
    member: Member
    start: int
    stop: int


def allocate(copy: Path, files: SlideFiles) -> None:
    """Make every file with its length and take its room on the disk.

    Raises:
        OSError: the disk is full, among others. What was taken stays taken: call again.
    """
    for member in files.members:
        path = _path(copy, member)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            if member.info.size:
                os.posix_fallocate(descriptor, 0, member.info.size)
        finally:
            os.close(descriptor)


def fill(copy: Path, files: SlideFiles) -> None:
    """Download every file into the place that `allocate` has made, down to the disk, and write the record.

    Raises:
        ChangedError: a file is no longer the one that was looked at.
        UnreachableError: it cannot be read.
    """
    with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
        for _ in pool.map(partial(_download, copy), _parts(files.members)):
            pass
    for folder, _, names in os.walk(copy, topdown=False):
        for path in (*(Path(folder, name) for name in names), Path(folder)):
            _sync(path)
    record = copy / "record.json"
    record.write_text(json.dumps({"format": _FORMAT, "files": _stamps(copy, files)}))
    _sync(record)
    _sync(copy)


def is_intact(copy: Path, files: SlideFiles) -> bool:
    """Tell whether the disk shows a copy as it was when it was recorded, and with the lengths of the files in S3."""
    try:
        record = json.loads((copy / "record.json").read_bytes())
        stamps = _stamps(copy, files)
        is_recorded = bool(record["format"] == _FORMAT and record["files"] == stamps)
    except (OSError, ValueError, KeyError, TypeError):  # no record, a broken or an older one, a file that is gone
        return False
    return is_recorded and all(stamps[member.path][0] == member.info.size for member in files.members)


def slide_bytes(copy: Path) -> int:
    """Return the bytes of a copy, or of a part of one. Its record is not counted."""
    return sum(status.st_size for status in _file_statuses(copy))


def last_write_ns(copy: Path) -> int:
    """Return when a byte of a copy was last written; 0 if it has no files yet."""
    return max((status.st_mtime_ns for status in _file_statuses(copy)), default=0)


def main_path(copy: Path, files: SlideFiles) -> Path:
    """Return the file that readers open."""
    return _path(copy, files.main)


def _path(copy: Path, member: Member) -> Path:
    return copy / "files" / member.path


def _file_statuses(copy: Path) -> Iterator[os.stat_result]:
    for folder, _, names in os.walk(copy / "files"):
        for name in names:
            with suppress(FileNotFoundError):  # evicted meanwhile
                yield Path(folder, name).stat()


def _parts(members: Iterable[Member]) -> Iterator[_Part]:
    for member in members:
        for start in range(0, member.info.size, PART_BYTES):
            yield _Part(member, start, min(start + PART_BYTES, member.info.size))


def _download(copy: Path, part: _Part) -> None:
    """Read one range of the version that was looked at, and write it to its place."""
    info = part.member.info
    (blob,) = objects.read_ranges(info.uri, [(part.start, part.stop)], etag=info.etag)
    descriptor = os.open(_path(copy, part.member), os.O_WRONLY)
    try:
        view, n_written = memoryview(blob), 0
        while n_written < len(view):
            n_written += os.pwrite(descriptor, view[n_written:], part.start + n_written)
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stamps(copy: Path, files: SlideFiles) -> dict[str, list[int]]:
    """Return of each file what the disk shows: its length, its inode, and the times that change when it is written."""
    stamps = {}
    for member in files.members:
        status = _path(copy, member).stat()
        stamps[member.path] = [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
    return stamps
