"""Reads, writes and lists objects by URI: local paths, `file:///`, `s3://`. Plain functions; no Ray, no state.

    info = stat("s3://bucket/slides/a.svs")
    header, directory = read_ranges(info.uri, [(0, 16), (4096, 8192)], etag=info.etag)
    won = put_if_absent("s3://bucket/run/decisions/a.json", b"{}")

Writes are whole or not at all, on disks (`uadray.storage.local`) and in S3 (`uadray.storage.s3`). Endpoint, region and
credentials are those that boto3 finds; without any, requests are unsigned. `uadray.storage.local_copies.local_copy`
gives a local file to libraries that need one.

Errors, all of them one line that says what to check:

- `NotFoundError`, `AccessError`, `UnreachableError`: exit status 2.
- `ChangedError`: the etag is not the expected one. `FullError`: a disk is full, or a slide larger than the cache.
  `BusyError`: every copy in the slide cache is in use. Exit status 1.
"""

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from uadray.errors import InputError, NoBucketError, NotFoundError, UadrayError
from uadray.storage import local, s3
from uadray.storage.uris import ObjectInfo, is_s3, join, local_path, name, parent, resolve

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

__all__ = [
    "ObjectInfo",
    "check_conditional_puts",
    "delete",
    "delete_all",
    "exists",
    "is_s3",
    "join",
    "list_folders",
    "list_many",
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

_LeftOut = Callable[[str, str], None]


class _Store(Protocol):
    """What the modules `local` and `s3` both have."""

    def stat(self, uri: str) -> ObjectInfo: ...
    def list_objects(self, uri: str, /, *, left_out: _LeftOut | None = None) -> Iterator[ObjectInfo]: ...
    def list_folders(self, uri: str, /) -> Iterator[str]: ...
    def read_bytes(self, uri: str, *, max_bytes: int | None = None) -> bytes: ...
    def read_ranges(
        self, uri: str, ranges: Sequence[tuple[int, int]], *, etag: str | None, gap_bytes: int = s3.JOIN_GAP_BYTES
    ) -> list[bytes]: ...
    def write_bytes(self, uri: str, data: bytes, *, content_type: str | None = None) -> None: ...
    def put_if_absent(self, uri: str, data: bytes) -> bool: ...
    def replace_if_match(self, uri: str, data: bytes, etag: str) -> bool: ...
    def delete(self, uri: str) -> None: ...
    def delete_all(self, uris: Sequence[str]) -> None: ...


def _store(uri: str) -> _Store:
    return s3 if is_s3(uri) else local


def stat(uri: str) -> ObjectInfo:
    """Return size and etag.

    Raises:
        NotFoundError: there is nothing, or a folder.
    """
    return _store(uri).stat(uri)


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
    prefix_uri: str, *, suffixes: tuple[str, ...] = (), left_out: _LeftOut | None = None
) -> Iterator[ObjectInfo]:
    """List the objects in a folder and below, page by page, in the order of the store; a missing folder is empty.

    Args:
        prefix_uri: the folder: `s3://bucket/a` lists `a/...`, never `ab/...`.
        suffixes: list only names that end with one of these, in upper or lower case.
        left_out: called with a reason and a path for whatever in a local folder is not listed. With it, names that are
            no UTF-8, which cannot be written into a manifest, are left out too.
    """
    endings = tuple(suffix.lower() for suffix in suffixes)
    for info in _store(prefix_uri).list_objects(prefix_uri, left_out=left_out):
        if not endings or info.uri.lower().endswith(endings):
            yield info


def list_folders(folder_uri: str) -> list[str]:
    """The names of the folders in a folder; what is in them is not listed. A missing folder has none."""
    return list(_store(folder_uri).list_folders(folder_uri))


def list_many(
    folder_uri: str, *, suffixes: tuple[str, ...] = (), at_most: int | None = None, after: str = ""
) -> list[ObjectInfo]:  # fmt: skip
    """List as `list_objects` does, at once and in S3 many times as fast, a folder whose names are known to be plain.

    A name in S3 with empty segments (`a//b`) may be told without these (`a/b`).

    Args:
        folder_uri: the folder.
        suffixes: list only names that end with one of these, in lower case.
        at_most: so many objects are looked at.
        after: only names that follow this one, of a folder without folders below.
    """
    if is_s3(folder_uri):
        infos = s3.list_many(folder_uri, at_most=at_most, after=after)
    else:
        listed = local.list_objects(folder_uri)
        infos = list(islice((info for info in listed if not after or name(info.uri) > after), at_most))
    return [info for info in infos if info.uri.endswith(suffixes)] if suffixes else infos


def read_bytes(uri: str, *, max_bytes: int | None = None) -> bytes:
    """Read a whole object.

    Raises:
        InputError: it is larger than `max_bytes`: nothing is cut off silently.
    """
    return _store(uri).read_bytes(uri, max_bytes=max_bytes)


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
    return _store(uri).read_ranges(uri, ranges, etag=etag, gap_bytes=gap_bytes)


def write_bytes(uri: str, data: bytes, *, content_type: str | None = None) -> None:
    """Write an object, over one that may be there. Local folders are made; `content_type` is for S3 alone."""
    _store(uri).write_bytes(uri, data, content_type=content_type)


def put_if_absent(uri: str, data: bytes) -> bool:
    """Write an object unless there is one, and tell whether this call did. Of any number of racers one wins."""
    return _store(uri).put_if_absent(uri, data)


def replace_if_match(uri: str, data: bytes, etag: str) -> bool:
    """Write an object if the one there still has this etag, and tell whether it had. A missing one does not match.

    Local files: safe among those who write by this function; see `uadray.storage.local.replace_if_match`.
    """
    return _store(uri).replace_if_match(uri, data, etag)


def check_conditional_puts(folder_uri: str) -> None:
    """Make sure that a place honours conditions on writes: without, two drivers could take the same slide.

    Writes, replaces and removes one small object there: six requests in S3. Local folders are made.

    Raises:
        InputError: it overwrites what it was told to leave, or refuses what it should have done.
    """
    uri = join(folder_uri, f".{secrets.token_hex(8)}{local.TEMPORARY}")
    created = put_if_absent(uri, b"first")
    try:
        if put_if_absent(uri, b"second"):
            raise _ignores(folder_uri, "If-None-Match: a second writer overwrote the first")
        if replace_if_match(uri, b"third", "0" * 32):
            raise _ignores(folder_uri, "If-Match: an object was replaced by who knew another version of it")
        if not (created and replace_if_match(uri, b"fourth", stat(uri).etag)):
            raise _ignores(folder_uri, "If-Match: it refuses a write whose condition is met")
    except BaseException:
        with suppress(UadrayError):  # the first error is the one to report
            delete(uri)
        raise
    delete(uri)


def _ignores(uri: str, what: str) -> InputError:
    return InputError(
        f"{uri}: this store does not honour {what}; results would be lost or made twice, so use Amazon S3, "
        "another server or a newer version of this one that has conditional writes, or a folder on a disk"
    )


def delete(uri: str) -> None:
    """Delete an object; one that does not exist is fine."""
    _store(uri).delete(uri)


def delete_all(uris: Iterable[str]) -> None:
    """Delete objects of one store, in S3 by a request for a thousand; what does not exist is fine."""
    wanted = list(uris)
    if wanted:
        _store(wanted[0]).delete_all(wanted)


def pyarrow_filesystem(uri: str) -> tuple["FileSystem", str]:
    """Return a pyarrow file system and the path in it: what Ray Train calls `storage_filesystem`, `storage_path`.

    It may be pickled: each process connects to S3 with the credentials that it finds itself.
    """
    if is_s3(uri):
        from uadray.storage.arrow_files import s3_filesystem

        return s3_filesystem(), uri.removeprefix("s3://").rstrip("/")
    from pyarrow.fs import LocalFileSystem

    return LocalFileSystem(), str(local_path(uri).absolute())
