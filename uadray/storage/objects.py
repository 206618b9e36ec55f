"""Reads, writes and lists objects by URI: local paths, `file:///`, `s3://`. Plain functions; no Ray, no state.

    info = stat("s3://bucket/slides/a.svs")
    header, directory = read_ranges(info.uri, [(0, 16), (4096, 8192)], etag=info.etag)
    won = put_if_absent("s3://bucket/run/decisions/a.json", b"{}")

Writes are whole or not at all, in both places. Endpoint, region and credentials are those that boto3 finds; without
any, requests are unsigned. Libraries that need a local file get one from `uadray.storage.local_copies.local_copy`.

Errors, all of them one line that says what to check:

- `NotFoundError`, `AccessError`, `UnreachableError`: exit status 2.
- `ChangedError`: the etag is not the expected one. `FullError`: a disk is full, or a slide larger than the cache.
  `BusyError`: every copy in the slide cache is in use. Exit status 1.
"""

import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from uadray.errors import (
    AccessError,
    ChangedError,
    FullError,
    InputError,
    NoBucketError,
    NotFoundError,
    UadrayError,
)
from uadray.storage import s3
from uadray.storage.uris import ObjectInfo, is_s3, join, local_path, name, parent, resolve

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

__all__ = [
    "ObjectInfo",
    "check_conditional_puts",
    "delete",
    "exists",
    "is_s3",
    "join",
    "list_objects",
    "local_path",
    "name",
    "parent",
    "put_if_absent",
    "pyarrow_filesystem",
    "read_bytes",
    "read_ranges",
    "replace_if_match",
    "resolve",
    "stat",
    "write_bytes",
]

_TEMPORARY = ".uadray-tmp"  # half-written files: `.name.<random>.uadray-tmp`, never listed


def stat(uri: str) -> ObjectInfo:
    """Return size and etag.

    Raises:
        NotFoundError: there is nothing, or a folder.
    """
    if is_s3(uri):
        return s3.stat(uri)
    with _explained(uri):
        return _info(uri, os.stat(local_path(uri)))  # noqa: PTH116


def exists(uri: str) -> bool:
    """Tell whether there is an object (not a folder). A missing bucket or a refused access is an error, not a no."""
    try:
        stat(uri)
    except NoBucketError:
        raise
    except NotFoundError:
        return False
    return True


def list_objects(
    prefix_uri: str, *, suffixes: tuple[str, ...] = (), left_out: Callable[[str, str], None] | None = None
) -> Iterator[ObjectInfo]:
    """List the objects in a folder and below, page by page, sorted as the place sorts; a missing one is empty.

    Args:
        prefix_uri: the folder: `s3://bucket/a` lists `a/...`, never `ab/...`.
        suffixes: only names that end so, in upper or lower case.
        left_out: told of what lies in a local folder and is not listed: the reason, and its path. With it, names that
            are no UTF-8, which nothing can be written about, are left out too.
    """
    endings = tuple(suffix.lower() for suffix in suffixes)
    for info in s3.list_objects(prefix_uri) if is_s3(prefix_uri) else _walk(prefix_uri, left_out):
        if not endings or info.uri.lower().endswith(endings):
            yield info


def read_bytes(uri: str, *, max_bytes: int | None = None) -> bytes:
    """Read a whole object.

    Raises:
        InputError: it is larger than `max_bytes`: nothing is cut off silently.
    """
    if is_s3(uri):
        return s3.read_bytes(uri, max_bytes=max_bytes)
    with _explained(uri), local_path(uri).open("rb") as file:
        size = _info(uri, os.fstat(file.fileno())).size
        if max_bytes is not None and size > max_bytes:
            raise InputError(f"{uri}: {size} bytes, expected {max_bytes} at most")
        return file.read()


def read_ranges(
    uri: str, ranges: Sequence[tuple[int, int]], *, etag: str | None, gap_bytes: int = s3.JOIN_GAP_BYTES
) -> list[bytes]:
    """Read byte ranges, in the order asked for. In S3, near ones are joined and 32 requests are in flight.

    Args:
        uri: the object.
        ranges: half-open pairs `(start, stop)`; they may overlap and come in any order.
        etag: that of `stat`; None takes whatever is there.
        gap_bytes: in S3, ranges that lie no further apart than this are read as one.

    Raises:
        ChangedError: the object is no longer the one with this etag.
        InputError: a range does not lie in the object.
    """
    for start, stop in ranges:
        if not 0 <= start <= stop:
            raise InputError(f"{uri}: not a byte range: {start} to {stop}")
    if is_s3(uri):
        return s3.read_ranges(uri, ranges, etag=etag, gap_bytes=gap_bytes)
    with _explained(uri), local_path(uri).open("rb", buffering=0) as file:
        _expect(uri, file.fileno(), etag)
        found = [os.pread(file.fileno(), stop - start, start) for start, stop in ranges]
        info = _expect(uri, file.fileno(), etag)
    for (start, stop), blob in zip(ranges, found, strict=True):
        if len(blob) != stop - start:
            raise InputError(f"{uri}: has {info.size} bytes, bytes {start} to {stop} were asked for")
    return found


def write_bytes(uri: str, data: bytes, *, content_type: str | None = None) -> None:
    """Write an object, over one that may be there. Local folders are made; `content_type` is for S3 alone."""
    if is_s3(uri):
        s3.write_bytes(uri, data, content_type=content_type)
        return
    with _explained(uri), _written(uri, data) as temporary:
        temporary.replace(local_path(uri))


def put_if_absent(uri: str, data: bytes) -> bool:
    """Write an object unless there is one, and tell whether this call did. Of any number of racers one wins."""
    if is_s3(uri):
        return s3.put_if(uri, data, IfNoneMatch="*")
    with _explained(uri), _written(uri, data) as temporary:
        try:
            os.link(temporary, local_path(uri))
        except FileExistsError:
            return temporary.stat().st_nlink == 2  # a network file system may have lost the answer to our own link
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            return _rename_if_absent(temporary, local_path(uri))  # no hard links on this file system
    return True


def replace_if_match(uri: str, data: bytes, etag: str) -> bool:
    """Write an object if the one there still has this etag, and tell whether it had. A missing one does not match.

    Local files: safe among those who write by this function, on machines that share the folder too where it is on NFS
    with locks (not mounted `nolock` or `local_lock`); not against other programs.
    """
    if is_s3(uri):
        return s3.put_if(uri, data, IfMatch=f'"{etag}"')
    if not exists(uri):
        return False
    with _explained(uri), _written(uri, data) as temporary, _locked(local_path(uri).parent):
        try:
            with local_path(uri).open("rb") as file:  # opened, because a network file system asks its server then
                there = os.fstat(file.fileno())
        except FileNotFoundError:
            return False
        if _info(uri, there).etag != etag:
            return False
        before = there.st_mtime_ns
        if temporary.stat().st_mtime_ns <= before:  # clocks of file systems tick every few milliseconds
            os.utime(temporary, ns=(before + 1000, before + 1000))
        temporary.replace(local_path(uri))
    return True


def check_conditional_puts(folder_uri: str) -> None:
    """Make sure that a place honours conditions on writes: without, two drivers could take the same slide.

    Writes, replaces and removes one small object there: six requests in S3. Local folders are made.

    Raises:
        InputError: it overwrites what it was told to leave, or refuses what it should have done.
    """
    uri = join(folder_uri, f".{secrets.token_hex(8)}{_TEMPORARY}")
    created = put_if_absent(uri, b"first")
    try:
        if put_if_absent(uri, b"second"):
            raise InputError(_ignores(folder_uri, "If-None-Match: a second writer overwrote the first"))
        if replace_if_match(uri, b"third", "0" * 32):
            raise InputError(_ignores(folder_uri, "If-Match: an object was replaced by who knew another version of it"))
        if not (created and replace_if_match(uri, b"fourth", stat(uri).etag)):
            raise InputError(_ignores(folder_uri, "If-Match: it refuses a write whose condition is met"))
    except BaseException:
        with suppress(UadrayError):  # what went wrong first is what is to be said
            delete(uri)
        raise
    delete(uri)


def _ignores(uri: str, what: str) -> str:
    return (
        f"{uri}: this store does not honour {what}; results would be lost or made twice, so use Amazon S3, "
        "another server or a newer version of this one that has conditional writes, or a folder on a disk"
    )


def delete(uri: str) -> None:
    """Delete an object; one that does not exist is fine."""
    if is_s3(uri):
        s3.delete(uri)
        return
    with _explained(uri):
        local_path(uri).unlink(missing_ok=True)


def pyarrow_filesystem(uri: str) -> tuple["FileSystem", str]:
    """Return a pyarrow file system and the path in it: what Ray Train calls `storage_filesystem`, `storage_path`.

    It may be pickled: each process connects to S3 with the credentials that it finds itself.
    """
    if is_s3(uri):
        from uadray.storage.arrow_files import s3_filesystem

        return s3_filesystem(), uri.removeprefix("s3://").rstrip("/")
    from pyarrow.fs import LocalFileSystem

    return LocalFileSystem(), str(local_path(uri).absolute())


def _info(uri: str, found: os.stat_result) -> ObjectInfo:
    if found.st_mode & 0o170000 != 0o100000:
        raise NotFoundError(f"{uri}: not a file")
    return ObjectInfo(uri, found.st_size, f"{found.st_size:x}-{found.st_mtime_ns:x}")


def _expect(uri: str, descriptor: int, etag: str | None) -> ObjectInfo:
    info = _info(uri, os.fstat(descriptor))
    if etag is not None and info.etag != etag:
        raise ChangedError(f"{uri}: the file has changed since it was looked at (etag {etag}, now {info.etag})")
    return info


def _walk(folder_uri: str, left_out: Callable[[str, str], None] | None = None) -> Iterator[ObjectInfo]:
    """List a local folder. Links to files are followed, links to folders are not: they may run in circles."""
    tell = left_out or (lambda reason, path: None)
    for folder, folders, names in os.walk(
        local_path(folder_uri), onerror=lambda error: tell(error.strerror or "unreadable", str(error.filename))
    ):
        folders.sort()
        for linked in filter(os.path.islink, (os.path.join(folder, inner) for inner in folders)):  # noqa: PTH118
            tell("a link to a folder", linked)
        for file in sorted(names):
            path = os.path.join(folder, file)  # noqa: PTH118
            if file.endswith(_TEMPORARY):
                continue
            if left_out is not None and not _is_utf8(path):
                tell("its name is no UTF-8", path)
                continue
            try:
                info = _info(path, os.stat(path))  # noqa: PTH116
            except OSError as error:
                if left_out is None and not isinstance(error, FileNotFoundError):
                    raise
                tell("a link that leads nowhere" if os.path.islink(path) else str(error.strerror), path)  # noqa: PTH114
            except NotFoundError:
                tell("not a file", path)
            else:
                yield info


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _written(uri: str, data: bytes) -> Iterator[Path]:
    """Write data to a temporary file beside its place, down to the disk; what is not taken away is removed."""
    path = local_path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{secrets.token_hex(8)}{_TEMPORARY}"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, a file in it that is never listed and stays.

    A folder itself can be locked too, but NFS tells its server of locks of files alone, and of those opened for
    writing; a folder's is known to one machine. `flock` excludes threads of one process from each other as well.
    """
    descriptor = os.open(folder / f".lock{_TEMPORARY}", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with suppress(PermissionError):  # somebody else's: whoever may write into the folder may use its lock
            os.fchmod(descriptor, folder.stat().st_mode & 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _rename_if_absent(temporary: Path, path: Path) -> bool:
    with _locked(path.parent):
        if path.exists():
            return False
        temporary.rename(path)
        return True


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn the system's errors into one line."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise NotFoundError(f"{uri}: there is no such file") from error
    except PermissionError as error:
        raise AccessError(f"{uri}: permission denied for user {os.geteuid()}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FullError(f"{uri}: the disk is full") from error
        raise UadrayError(f"{uri}: {error.strerror or error}") from error
