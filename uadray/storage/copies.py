"""What a copy of a slide holds, and whether it still does.

    <copy>/files/slide.svs      the slide; of one of several files all of them, in the folders they were in
    <copy>/record.json          length and CRC-32 of every file, by parts of 8 MiB, and how the disk shows each

A file that arrives is checked against its length, against the version in S3 (`If-Match` on every range), and against
its MD5 where the etag is one (objects that were put in one piece, without a key of KMS). A file that is opened again is
trusted while inode, times of modification and of change, and the machine's boot are those recorded: whatever writes to
a file changes them. Else it is read whole and compared, once. Bits that rot on a disk under all that are not noticed
before the next boot.
"""

import hashlib
import json
import logging
import os
import re
import secrets
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from uadray.errors import UnreachableError
from uadray.storage import objects
from uadray.storage.slide_files import Member, SlideFiles
from uadray.storage.uris import split_s3

PART_BYTES = 8 * 2**20
PARTS_AT_ONCE = 8

log = logging.getLogger(__name__)
_no_md5: set[str] = set()
"""Buckets whose etags look like an MD5 and are none, as far as this process has met them."""


class _Part(NamedTuple):
    member: Member
    start: int
    stop: int


class _Sums(NamedTuple):
    """CRC-32 of each part of a file, and the MD5 of the whole where the etag may be one."""

    crcs: list[int]
    md5: str | None


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
        UnreachableError: it cannot be read, or arrives damaged.
    """
    sums = _download(copy, files.members)
    doubtful = [member for member in files.members if sums[member.path].md5 not in (None, member.info.etag)]
    if doubtful:
        again = _download(copy, doubtful)
        for member in doubtful:
            _settle(member, sums[member.path], again[member.path])
        sums |= again
    for folder, _, names in os.walk(copy, topdown=False):
        for path in (*(Path(folder, name) for name in names), Path(folder)):
            _sync(path)
    _write_record(copy, _stamps(copy, files), {path: found.crcs for path, found in sums.items()})
    _sync(copy)


def is_intact(copy: Path, files: SlideFiles) -> bool:
    """Tell whether a copy still holds what was put there. Reads it whole only where the disk shows a difference."""
    try:
        record = json.loads((copy / "record.json").read_bytes())
        stamps = _stamps(copy, files)
        if any(stamps[member.path][0] != member.info.size for member in files.members):
            return False
        crcs = {member.path: record["files"][member.path]["crcs"] for member in files.members}
        if record["boot"] == _boot() and all(record["files"][path]["stamp"] == stamp for path, stamp in stamps.items()):
            return True
        if not _is_as_recorded(copy, files, crcs):
            return False
    except (OSError, ValueError, KeyError, TypeError):  # no record, half a record, a file that cannot be read
        return False
    with suppress(OSError):  # a full disk: it will be compared again
        _write_record(copy, stamps, crcs)
    return True


def slide_bytes(copy: Path) -> int:
    """Bytes of a copy, or of a part of one; its record is not counted."""
    total = 0
    for folder, _, names in os.walk(copy / "files"):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(folder, name).stat().st_size
    return total


def last_write_ns(copy: Path) -> int:
    """When a byte of a copy was last written; 0 where it has no files yet."""
    last = 0
    for folder, _, names in os.walk(copy / "files"):
        for name in names:
            with suppress(FileNotFoundError):
                last = max(last, Path(folder, name).stat().st_mtime_ns)
    return last


def main_path(copy: Path, files: SlideFiles) -> Path:
    """The file that readers open."""
    return _path(copy, files.main)


def _path(copy: Path, member: Member) -> Path:
    return copy / "files" / member.path


def _parts(members: Iterable[Member]) -> Iterator[_Part]:
    for member in members:
        for start in range(0, member.info.size, PART_BYTES):
            yield _Part(member, start, min(start + PART_BYTES, member.info.size))


def _download(copy: Path, members: Sequence[Member]) -> dict[str, _Sums]:
    """Fetch and write all parts, some at once; MD5 sums are made in order meanwhile."""
    crcs: dict[str, list[int]] = {member.path: [] for member in members}
    hashes = {member.path: hashlib.md5(usedforsecurity=False) for member in members if _may_be_md5(member)}
    ahead: deque[tuple[_Part, Future[tuple[int, bytes | None]]]] = deque()

    def take() -> None:
        part, future = ahead.popleft()
        crc, blob = future.result()
        crcs[part.member.path].append(crc)
        if blob is not None:
            hashes[part.member.path].update(blob)

    with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
        for part in _parts(members):
            ahead.append((part, pool.submit(_fetch, copy, part, keep=part.member.path in hashes)))
            if len(ahead) == PARTS_AT_ONCE:
                take()
        while ahead:
            take()
    return {path: _Sums(crcs[path], hashes[path].hexdigest() if path in hashes else None) for path in crcs}


def _fetch(copy: Path, part: _Part, *, keep: bool) -> tuple[int, bytes | None]:
    info = part.member.info
    (blob,) = objects.read_ranges(info.uri, [(part.start, part.stop)], etag=info.etag)
    descriptor = os.open(_path(copy, part.member), os.O_WRONLY)
    try:
        view, done = memoryview(blob), 0
        while done < len(view):
            done += os.pwrite(descriptor, view[done:], part.start + done)
    finally:
        os.close(descriptor)
    return zlib.crc32(blob), blob if keep else None


def _may_be_md5(member: Member) -> bool:
    return bool(re.fullmatch(r"[0-9a-f]{32}", member.info.etag)) and split_s3(member.info.uri)[0] not in _no_md5


def _settle(member: Member, first: _Sums, second: _Sums) -> None:
    """Judge a file whose MD5 was not its etag, and that was fetched again.

    Two equal downloads mean that the etag is no MD5 (encryption with a key of KMS makes such ones).
    """
    bucket = split_s3(member.info.uri)[0]
    if second.md5 == member.info.etag:
        log.warning("a download of %d bytes from bucket %s arrived damaged and was repeated", member.info.size, bucket)
    elif second.md5 == first.md5:
        _no_md5.add(bucket)
        log.info("etags of bucket %s are no MD5 sums: downloads are checked by length and version alone", bucket)
    else:
        raise UnreachableError(
            f"{member.info.uri}: arrives damaged: two downloads differ from each other and from the MD5 in S3 "
            f"({member.info.etag}); check the network and what stands between"
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stamps(copy: Path, files: SlideFiles) -> dict[str, list[int]]:
    """How the disk shows each file: its length, and what changes when somebody writes to it."""
    stamps = {}
    for member in files.members:
        found = _path(copy, member).stat()
        stamps[member.path] = [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]
    return stamps


def _boot() -> str:
    """What changes when the machine starts anew: files may not have reached the disk whole before."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _write_record(copy: Path, stamps: dict[str, list[int]], crcs: dict[str, list[int]]) -> None:
    """Write the record: whole or not at all, as others may read it."""
    files = {path: {"stamp": stamp, "crcs": crcs[path]} for path, stamp in stamps.items()}
    record = {"boot": _boot(), "files": files}
    temporary = copy / f"record.{secrets.token_hex(8)}"
    try:
        with temporary.open("xb") as file:
            file.write(json.dumps(record).encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(copy / "record.json")
    finally:
        temporary.unlink(missing_ok=True)


def _is_as_recorded(copy: Path, files: SlideFiles, crcs: dict[str, list[int]]) -> bool:
    """Read everything and compare."""

    def check(numbered: tuple[_Part, int]) -> bool:
        part, crc = numbered
        with _path(copy, part.member).open("rb", buffering=0) as file:
            return zlib.crc32(os.pread(file.fileno(), part.stop - part.start, part.start)) == crc

    recorded = [crc for member in files.members for crc in crcs[member.path]]
    parts = list(_parts(files.members))
    with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
        return len(parts) == len(recorded) and all(pool.map(check, zip(parts, recorded, strict=True)))
