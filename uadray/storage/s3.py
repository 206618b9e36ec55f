"""Objects in S3: the functions of `uadray.storage.objects` for `s3://`.

    a key that obstore cannot express, or a process that was forked -------> boto3
    anything else --> obstore, one request (ranges: up to six) -- success -> done
                         | any failure
                         v
                      boto3, which tries again, and says what is wrong in the words of the S3 API

obstore takes a quarter of boto3's time, outside the interpreter's lock, but its errors are free text, without a reason
for a HEAD. boto3 alone lists what others have put there, since obstore shows the folder marker `a/` as an object `a`
and `a//b` as `a/b`; it alone deletes, since obstore sends a bulk request that not every server knows; and it alone
writes and reads large objects whole, since obstore's timeout is for a whole request.
"""

import io
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from itertools import islice
from typing import IO, TYPE_CHECKING, TypeVar

from uadray.errors import ChangedError, InputError
from uadray.storage import s3_boto3
from uadray.storage.s3_client import IN_FLIGHT, assume_reachable, object_store, obstore_works
from uadray.storage.s3_errors import explained, no_such_object
from uadray.storage.uris import ObjectInfo, split_s3

if TYPE_CHECKING:
    from obstore import Attributes, GetOptions, ObjectMeta, PutMode
    from obstore.store import S3Store

JOIN_GAP_BYTES = 64 * 2**10  # reading this much for nothing costs less than another request
JOIN_MAX_BYTES = 8 * 2**20
_ONE_REQUEST_BYTES = 8 * 2**20
"""What is read or written whole by obstore: it passes within the timeout of a request at 140 KB/s."""
_MULTIPART_BYTES = 64 * 2**20
_BUCKET = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")

_T = TypeVar("_T")


def stat(uri: str) -> ObjectInfo:
    """Return size and etag."""

    def head(store: "S3Store", key: str) -> "ObjectMeta":
        import obstore

        try:
            return obstore.head(store, key)
        except FileNotFoundError:  # which has no body that says whether the object is missing, or the bucket
            return obstore.get(store, key, options={"range": (0, 1)}).meta

    meta = _by_obstore(uri, head)
    if meta is None or not meta["e_tag"]:
        return s3_boto3.stat(uri)
    return ObjectInfo(uri, meta["size"], meta["e_tag"].strip('"'))


def list_objects(uri: str, *, left_out: Callable[[str, str], None] | None = None) -> Iterator[ObjectInfo]:
    """List the objects in a folder and below. In S3 all of them can be listed: `left_out` is never called."""
    return s3_boto3.list_objects(uri)


def list_folders(uri: str) -> Iterator[str]:
    """List the names of the folders in a folder, not what is in them."""
    return s3_boto3.list_folders(uri)


def list_many(uri: str, *, at_most: int | None = None, after: str = "") -> list[ObjectInfo]:
    """List the objects in a folder and below, by obstore where it can: a sixteenth of boto3's CPU time.

    Of a name with empty segments another is told (see above): only for folders in which such names do not matter.
    """

    def pages(store: "S3Store", key: str) -> list[ObjectInfo]:
        import obstore

        bucket, infos = split_s3(uri)[0], list[ObjectInfo]()
        folder = key.rstrip("/") + "/" if key else ""
        for page in obstore.list(store, folder or None, offset=folder + after if after else None, chunk_size=1000):
            infos += [
                ObjectInfo(f"s3://{bucket}/{item['path']}", item["size"], (item["e_tag"] or "").strip('"'))
                for item in page
            ]
            if at_most is not None and len(infos) >= at_most:
                break
        return infos

    infos = _by_obstore(uri, pages, retry=True)
    return list(islice(s3_boto3.list_objects(uri, after=after), at_most)) if infos is None else infos[:at_most]


def read_bytes(uri: str, *, max_bytes: int | None = None) -> bytes:
    """Read a whole object."""

    def get(store: "S3Store", key: str) -> bytes | None:
        import obstore

        answer = obstore.get(store, key)
        size = answer.meta["size"]
        if max_bytes is not None and size > max_bytes:
            raise InputError(f"{uri}: {size} bytes, expected {max_bytes} at most")
        return bytes(answer.bytes()) if size <= _ONE_REQUEST_BYTES else None

    data = _by_obstore(uri, get)
    return s3_boto3.read_bytes(uri, max_bytes=max_bytes) if data is None else data


def read_ranges(
    uri: str, ranges: Sequence[tuple[int, int]], *, etag: str | None, gap_bytes: int = JOIN_GAP_BYTES
) -> list[bytes]:
    """Read half-open byte ranges: near ones joined, many in flight."""
    spans = join_ranges(ranges, gap_bytes=gap_bytes)
    starts = [start for start, _ in spans]
    blobs = list(_pool(os.getpid()).map(partial(_read_span, uri, etag), spans))
    pieces = []
    for start, stop in ranges:
        index = bisect_right(starts, start) - 1
        pieces.append(bytes(blobs[index][start - starts[index] : stop - starts[index]]) if stop > start else b"")
    return pieces


def read_ends(uri: str, *, etag: str | None, head_bytes: int, tail_bytes: int) -> tuple[ObjectInfo, bytes, bytes]:
    """Read an object's first and last bytes, its size and its etag, in one round trip. Fewer bytes of a smaller one.

    Raises:
        ChangedError: the object is not the one with this etag.
    """
    ranges: list[GetOptions] = [{"range": (0, head_bytes)}, {"range": {"suffix": tail_bytes}}]
    head, tail = _pool(os.getpid()).map(partial(_get_end, uri), ranges)
    if head is not None and tail is not None:
        if head[0].etag != tail[0].etag or etag not in (None, head[0].etag):
            raise ChangedError(f"{uri}: the object has changed since it was looked at (etag {etag})")
        return head[0], head[1], tail[1]
    info = stat(uri)
    if etag not in (None, info.etag):
        raise ChangedError(f"{uri}: the object has changed since it was looked at (etag {etag}, now {info.etag})")
    spans = [(0, min(head_bytes, info.size)), (max(0, info.size - tail_bytes), info.size)]
    first, last = read_ranges(uri, spans, etag=info.etag)
    return info, first, last


def join_ranges(
    ranges: Sequence[tuple[int, int]], *, gap_bytes: int = JOIN_GAP_BYTES, max_bytes: int = JOIN_MAX_BYTES
) -> list[tuple[int, int]]:
    """Join ranges that lie near each other into fewer, sorted spans.

    Each range lies in the last span that does not begin after it.

    >>> join_ranges([(100, 110), (0, 10), (12, 20), (5, 5)], gap_bytes=4)
    [(0, 20), (100, 110)]
    """
    spans: list[tuple[int, int]] = []
    for start, stop in sorted(span for span in ranges if span[1] > span[0]):
        if spans and start - spans[-1][1] <= gap_bytes and max(stop, spans[-1][1]) - spans[-1][0] <= max_bytes:
            spans[-1] = (spans[-1][0], max(stop, spans[-1][1]))
        else:
            spans.append((start, stop))
    return spans


def write_bytes(uri: str, data: bytes, *, content_type: str | None = None) -> None:
    """Write an object: whole or not at all."""
    import obstore

    if len(data) > _MULTIPART_BYTES:
        s3_boto3.write_file(uri, io.BytesIO(data), content_type=content_type)
        return
    attributes: Attributes | None = {"Content-Type": content_type} if content_type else None

    def put(store: "S3Store", key: str) -> bool:
        obstore.put(store, key, data, attributes=attributes, use_multipart=False)
        return True

    if len(data) > _ONE_REQUEST_BYTES or not _by_obstore(uri, put):
        s3_boto3.write_bytes(uri, data, content_type=content_type)


def write_file(uri: str, file: IO[bytes]) -> None:
    """Write an object from an open file, in parts where it is large: whole or not at all."""
    s3_boto3.write_file(uri, file)


def put_if_absent(uri: str, data: bytes) -> bool:
    """Write an object unless there is one, and tell whether this call did."""
    return _put_if(uri, data, "create", IfNoneMatch="*")


def replace_if_match(uri: str, data: bytes, etag: str) -> bool:
    """Write an object if the one there still has this etag, and tell whether it had."""
    return _put_if(uri, data, {"e_tag": f'"{etag}"'}, IfMatch=f'"{etag}"')


def delete(uri: str) -> None:
    """Delete an object; one that does not exist is fine."""
    s3_boto3.delete(uri)


def delete_all(uris: Sequence[str]) -> None:
    """Delete objects, a thousand a request; what does not exist is fine."""
    s3_boto3.delete_all(uris)


def needs_boto3(uri: str) -> bool:
    """Tell whether obstore cannot express this key: one with empty or dotted segments, or control characters.

    >>> [needs_boto3(f"s3://bucket/{key}") for key in ("a/b.svs", "a//b.svs", "a/", "../b.svs", "b" + chr(9))]
    [False, True, True, True, True]
    """
    bucket, key = split_s3(uri)
    segments = key.split("/")
    return not (_BUCKET.fullmatch(bucket) and key.isprintable()) or any(part in ("", ".", "..") for part in segments)


def _by_obstore(uri: str, ask: Callable[["S3Store", str], _T], *, retry: bool = False) -> _T | None:
    """Return obstore's answer to a request; None if boto3 has to ask instead.

    Raises:
        NotFoundError: the server says that there is no such object. It is not asked again.
    """
    from obstore.exceptions import BaseError

    if needs_boto3(uri) or not obstore_works():
        return None
    bucket, key = split_s3(uri)
    with explained(uri), suppress(BaseError, OSError):
        try:
            answer = ask(object_store(bucket, retry=retry), key)
        except FileNotFoundError as error:
            if "<Code>NoSuchKey</Code>" not in str(error):  # a HEAD, or there is no such bucket
                raise
            raise no_such_object(uri) from error
        assume_reachable()
        return answer
    return None


def _put_if(uri: str, data: bytes, mode: "PutMode", **condition: str) -> bool:
    """Write an object under a condition, and tell whether it was met; boto3 goes on where obstore cannot tell."""
    import obstore
    from obstore.exceptions import AlreadyExistsError, GenericError, PreconditionError

    may_be_written = False

    def put(store: "S3Store", key: str) -> bool:
        nonlocal may_be_written
        try:
            obstore.put(store, key, data, mode=mode, use_multipart=False)
        except (AlreadyExistsError, PreconditionError) as error:
            if _status(error) != 412:  # 409: two writers at once; 404: no such bucket
                raise
            return False
        except GenericError as error:
            may_be_written = not 400 <= _status(error) < 500
            raise
        return True

    is_met = _by_obstore(uri, put)
    return s3_boto3.put_if(uri, data, may_be_written=may_be_written, **condition) if is_met is None else is_met


def _status(error: Exception) -> int:
    """Return the HTTP status that an error of obstore's tells of; 0 if there was no answer.

    >>> _status(Exception("Server returned non-2xx status code: 412 Precondition Failed")), _status(Exception())
    (412, 0)
    """
    match = re.search(r"status code: (\d{3})", str(error))
    return int(match[1]) if match else 0


def _read_span(uri: str, etag: str | None, span: tuple[int, int]) -> memoryview:
    """Read a byte range of the version with this etag."""
    from obstore.exceptions import PreconditionError

    options: GetOptions = {"range": span, "if_match": f'"{etag}"'} if etag else {"range": span}

    def get(store: "S3Store", key: str) -> memoryview:
        import obstore

        try:
            return memoryview(obstore.get(store, key, options=options).bytes())
        except PreconditionError as error:
            raise ChangedError(f"{uri}: the object has changed since it was looked at (etag {etag})") from error

    start, stop = span
    blob = _by_obstore(uri, get, retry=True)
    if blob is None or len(blob) != stop - start:
        return memoryview(s3_boto3.read_range(uri, start, stop, etag=etag))
    return blob


def _get_end(uri: str, options: "GetOptions") -> tuple[ObjectInfo, bytes] | None:
    """Return what a range holds, with size and etag of the object; None if obstore does not get it."""

    def get(store: "S3Store", key: str) -> tuple[ObjectInfo, bytes]:
        import obstore

        answer = obstore.get(store, key, options=options)
        data, meta = bytes(answer.bytes()), answer.meta
        return ObjectInfo(uri, meta["size"], (meta["e_tag"] or "").strip('"')), data

    return _by_obstore(uri, get, retry=True)


@cache
def _pool(pid: int) -> ThreadPoolExecutor:
    """Return threads that wait for obstore, which works outside the interpreter's lock; new ones after a fork."""
    return ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="uadray-s3")
