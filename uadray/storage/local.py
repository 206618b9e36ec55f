"""Objects on a file system: the functions of `uadray.storage.objects` for local paths and `file:///`.

Writes are whole or not at all: data goes to a temporary file in the same folder, down to the disk, and that file is
then renamed or linked to its place. Temporary files are never listed.

    write_bytes         rename: replaces what is there
    put_if_absent       link: fails where there is a file; under the folder's lock where links are not supported
    replace_if_match    lock of the folder -> compare the etag -> rename
"""

import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from uadray.errors import AccessError, ChangedError, FullError, InputError, NotFoundError, UadrayError
from uadray.storage.uris import ObjectInfo, local_path

TEMPORARY = ".uadray-tmp"
"""What names of half-written files (`.<random>.uadray-tmp`) and of lock files end with."""

_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


def stat(uri: str) -> ObjectInfo:
    """Return size and etag."""
    with _explained(uri):
        return _info(uri, os.stat(local_path(uri)))  # noqa: PTH116


def list_objects(folder_uri: str, *, left_out: Callable[[str, str], None] | None = None) -> Iterator[ObjectInfo]:
    """List a folder and the folders below.

    Links to files are followed; links to folders are not, as they may run in circles.

    Args:
        folder_uri: the folder.
        left_out: see `uadray.storage.objects.list_objects`.
    """
    tell = left_out or (lambda reason, path: None)
    for folder, folders, names in os.walk(
        local_path(folder_uri), onerror=lambda error: tell(error.strerror or "unreadable", str(error.filename))
    ):
        folders.sort()
        for link in filter(os.path.islink, (os.path.join(folder, inner) for inner in folders)):  # noqa: PTH118
            tell("a link to a folder", link)
        for path in (os.path.join(folder, name) for name in sorted(names) if not name.endswith(TEMPORARY)):  # noqa: PTH118
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


def list_folders(folder_uri: str) -> Iterator[str]:
    """List the names of the folders in a folder, not what is in them. Links to folders are not followed."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(local_path(folder_uri)) as entries:
        yield from sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))


def read_bytes(uri: str, *, max_bytes: int | None = None) -> bytes:
    """Read a whole file."""
    with _explained(uri), local_path(uri).open("rb") as file:
        size = _info(uri, os.fstat(file.fileno())).size
        if max_bytes is not None and size > max_bytes:
            raise InputError(f"{uri}: {size} bytes, expected {max_bytes} at most")
        return file.read()


def read_ranges(
    uri: str, ranges: Sequence[tuple[int, int]], *, etag: str | None, gap_bytes: int | None = None
) -> list[bytes]:
    """Read byte ranges. The etag is compared before and after; `gap_bytes` means nothing on a disk."""
    with _explained(uri), local_path(uri).open("rb", buffering=0) as file:
        _expect(uri, file.fileno(), etag)
        blobs = [os.pread(file.fileno(), stop - start, start) for start, stop in ranges]
        info = _expect(uri, file.fileno(), etag)
    for (start, stop), blob in zip(ranges, blobs, strict=True):
        if len(blob) != stop - start:
            raise InputError(f"{uri}: has {info.size} bytes, bytes {start} to {stop} were asked for")
    return blobs


def write_bytes(uri: str, data: bytes, *, content_type: str | None = None) -> None:
    """Write a file, over one that may be there, and the folders above it. Files have no `content_type`."""
    with _explained(uri), _temporary_file(uri, data) as temporary:
        temporary.replace(local_path(uri))


def put_if_absent(uri: str, data: bytes) -> bool:
    """Write a file unless there is one, and tell whether this call did."""
    with _explained(uri), _temporary_file(uri, data) as temporary:
        try:
            os.link(temporary, local_path(uri))
        except FileExistsError:
            return temporary.stat().st_nlink == 2  # a network file system may have lost the answer to our own link
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            return _rename_if_absent(temporary, local_path(uri))
    return True


def replace_if_match(uri: str, data: bytes, etag: str) -> bool:
    """Write a file if the one there still has this etag, and tell whether it had.

    Safe among those who write by this function, also on machines that share the folder by NFS with locks (not mounted
    `nolock` or `local_lock`); not against other programs.
    """
    try:
        stat(uri)
    except NotFoundError:
        return False
    with _explained(uri), _temporary_file(uri, data) as temporary, _locked(local_path(uri).parent):
        try:
            with local_path(uri).open("rb") as file:  # opened, because a network file system asks its server then
                current = os.fstat(file.fileno())
        except FileNotFoundError:
            return False
        if _info(uri, current).etag != etag:
            return False
        if temporary.stat().st_mtime_ns <= current.st_mtime_ns:  # clocks of file systems tick every few milliseconds
            later_ns = current.st_mtime_ns + 1000
            os.utime(temporary, ns=(later_ns, later_ns))
        temporary.replace(local_path(uri))
    return True


def delete(uri: str) -> None:
    """Delete a file; one that does not exist is fine."""
    with _explained(uri):
        local_path(uri).unlink(missing_ok=True)


def delete_all(uris: Sequence[str]) -> None:
    """Delete files; those that do not exist are fine."""
    for uri in uris:
        delete(uri)


def _info(uri: str, status: os.stat_result) -> ObjectInfo:
    if status.st_mode & 0o170000 != 0o100000:
        raise NotFoundError(f"{uri}: not a file")
    return ObjectInfo(uri, status.st_size, f"{status.st_size:x}-{status.st_mtime_ns:x}")


def _expect(uri: str, descriptor: int, etag: str | None) -> ObjectInfo:
    info = _info(uri, os.fstat(descriptor))
    if etag is not None and info.etag != etag:
        raise ChangedError(f"{uri}: the file has changed since it was looked at (etag {etag}, now {info.etag})")
    return info


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _temporary_file(uri: str, data: bytes) -> Iterator[Path]:
    """Write data to a temporary file in the folder of `uri`, down to the disk; remove it unless it was renamed."""
    folder = local_path(uri).parent
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{secrets.token_hex(8)}{TEMPORARY}"
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
    """Hold a folder's lock: a file in it that is never listed and stays.

    A folder can be locked too, but only on one machine: NFS tells its server of locks on files alone, and only of files
    that are open for writing. `flock` excludes threads of one process from each other as well.
    """
    descriptor = os.open(folder / f".lock{TEMPORARY}", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with suppress(PermissionError):  # another user made it: whoever may write into the folder may use its lock
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
