"""What is done with objects in S3: boto3 for whole objects and control, obstore where many ranges are in flight."""

import io
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from typing import IO, TYPE_CHECKING

from uadray.errors import ChangedError, InputError, NotFoundError, UnreachableError
from uadray.storage.s3_client import IN_FLIGHT, assume_reachable, connect, explained, object_store, one_line
from uadray.storage.uris import ObjectInfo, split_s3

if TYPE_CHECKING:
    from obstore import GetOptions

JOIN_GAP_BYTES = 64 * 2**10  # reading this much for nothing costs less than another request
JOIN_MAX_BYTES = 8 * 2**20
_MULTIPART_BYTES = 64 * 2**20
_TRIES = 3


def stat(uri: str) -> ObjectInfo:
    """Ask for size and etag."""
    from botocore.exceptions import ClientError

    bucket, key = split_s3(uri)
    if not key:
        raise InputError(f"{uri}: a bucket, where an object was expected: s3://bucket/key")
    client = connect().client
    with explained(uri):
        try:
            answer = client.head_object(Bucket=bucket, Key=key)
        except ClientError:  # a HEAD's refusal has no body, that is, no reason: ask again in a way that has
            client.get_object(Bucket=bucket, Key=key, Range="bytes=0-0")["Body"].close()
            answer = client.head_object(Bucket=bucket, Key=key)
    return ObjectInfo(uri, int(answer["ContentLength"]), answer["ETag"].strip('"'))


def visible_buckets() -> int | None:
    """Ask the server who we are: how many buckets the credentials show; None where they may not list buckets.

    Raises:
        AccessError: the server does not take the credentials.
    """
    from botocore.exceptions import ClientError

    with explained("S3"):
        try:
            return len(connect().client.list_buckets()["Buckets"])
        except ClientError as error:
            if error.response["Error"]["Code"] != "AccessDenied":
                raise
    return None


def list_objects(uri: str, *, left_out: Callable[[str, str], None] | None = None) -> Iterator[ObjectInfo]:
    """List the objects in a folder and below, page by page, in the order of the server (on S3 by key).

    Objects that stand for folders (their names end with a slash) are not listed. Nothing is told to `left_out`.
    """
    bucket, folder = split_s3(uri)
    prefix = folder.rstrip("/") + "/" if folder.strip("/") else ""
    with explained(uri):
        for page in connect().client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", ()):
                if not item["Key"].endswith("/"):
                    yield ObjectInfo(f"s3://{bucket}/{item['Key']}", int(item["Size"]), item["ETag"].strip('"'))


def read_bytes(uri: str, *, max_bytes: int | None = None) -> bytes:
    """Read a whole object; a connection that breaks off in the middle is tried again."""
    from botocore.exceptions import HTTPClientError, IncompleteReadError, ResponseStreamingError

    bucket, key = split_s3(uri)
    tries = 0
    with explained(uri):
        while True:
            tries += 1
            answer = connect().client.get_object(Bucket=bucket, Key=key)
            if max_bytes is not None and answer["ContentLength"] > max_bytes:
                answer["Body"].close()
                raise InputError(f"{uri}: {answer['ContentLength']} bytes, expected {max_bytes} at most")
            try:
                with answer["Body"] as body:
                    return bytes(body.read())
            except (HTTPClientError, IncompleteReadError, ResponseStreamingError):
                if tries == _TRIES:
                    raise


def read_ranges(
    uri: str, ranges: Sequence[tuple[int, int]], *, etag: str | None, gap_bytes: int = JOIN_GAP_BYTES
) -> list[bytes]:
    """Read half-open byte ranges: near ones joined, many in flight."""
    spans = join_ranges(ranges, gap_bytes=gap_bytes)
    starts = [start for start, _ in spans]
    blobs = list(_pool(os.getpid()).map(partial(_read_span, uri, etag), spans))
    found = []
    for start, stop in ranges:
        index = bisect_right(starts, start) - 1
        found.append(bytes(blobs[index][start - starts[index] : stop - starts[index]]) if stop > start else b"")
    return found


def read_ends(uri: str, *, etag: str | None, head_bytes: int, tail_bytes: int) -> tuple[ObjectInfo, bytes, bytes]:
    """Read an object's first and last bytes, its size and its etag, in one round trip. Fewer bytes of a smaller one.

    Raises:
        ChangedError: the object is not the one with this etag.
    """
    from obstore.exceptions import BaseError

    bucket, key = split_s3(uri)
    if key and not _needs_boto3(key):
        ranges: list[GetOptions] = [{"range": (0, head_bytes)}, {"range": {"suffix": tail_bytes}}]
        with suppress(BaseError, OSError):  # what is wrong is said below
            answers = list(_pool(os.getpid()).map(partial(_get_answer, bucket, key), ranges))
            (head, size, head_etag), (tail, _, tail_etag) = answers
            assume_reachable()
            if head_etag != tail_etag or etag not in (None, head_etag):
                raise ChangedError(f"{uri}: the object has changed since it was looked at (etag {etag})")
            return ObjectInfo(uri, size, head_etag), head, tail
    info = stat(uri)
    if etag not in (None, info.etag):
        raise ChangedError(f"{uri}: the object has changed since it was looked at (etag {etag}, now {info.etag})")
    spans = [(0, min(head_bytes, info.size)), (max(0, info.size - tail_bytes), info.size)]
    head, tail = read_ranges(uri, spans, etag=info.etag)
    return info, head, tail


def _get_answer(bucket: str, key: str, options: "GetOptions") -> tuple[bytes, int, str]:
    """What a range holds, and the size and etag of the object."""
    import obstore

    answer = obstore.get(object_store(bucket), key, options=options)
    return bytes(answer.bytes()), answer.meta["size"], (answer.meta["e_tag"] or "").strip('"')


def join_ranges(
    ranges: Sequence[tuple[int, int]], *, gap_bytes: int = JOIN_GAP_BYTES, max_bytes: int = JOIN_MAX_BYTES
) -> list[tuple[int, int]]:
    """Join ranges that lie near each other into fewer, sorted spans, so that each range lies in the last one before it.

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


@cache
def _pool(pid: int) -> ThreadPoolExecutor:
    """Threads that wait for obstore, which works outside the interpreter's lock; new ones after a fork."""
    return ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="uadray-s3")


def _read_span(uri: str, etag: str | None, span: tuple[int, int]) -> memoryview:
    """Read one span; where obstore gives up, boto3 says why, or that the server is back and it is worth another try."""
    from obstore.exceptions import BaseError, PreconditionError

    error: Exception | None = None
    for _ in range(_TRIES):
        try:
            blob = _get(uri, etag, span)
            if len(blob) == span[1] - span[0]:
                return blob
        except PreconditionError as changed:
            raise ChangedError(f"{uri}: the object has changed since it was looked at (etag {etag})") from changed
        except (BaseError, OSError) as failure:
            error = failure
        info = stat(uri)
        if span[1] > info.size:
            raise InputError(f"{uri}: has {info.size} bytes, bytes {span[0]} to {span[1]} were asked for")
    detail = one_line(error) if error else "the answer was too short"
    raise UnreachableError(f"{uri}: bytes {span[0]} to {span[1]} cannot be read: {detail}") from error


def _get(uri: str, etag: str | None, span: tuple[int, int]) -> memoryview:
    import obstore

    bucket, key = split_s3(uri)
    if _needs_boto3(key):
        return _get_by_boto3(uri, etag, span)
    options: GetOptions = {"range": span}
    if etag:
        options["if_match"] = f'"{etag}"'
    return memoryview(obstore.get(object_store(bucket), key, options=options).bytes())


def _needs_boto3(key: str) -> bool:
    return not key.isprintable() or any(part in ("", ".", "..") for part in key.split("/"))


def _get_by_boto3(uri: str, etag: str | None, span: tuple[int, int]) -> memoryview:
    """Read a span by boto3: obstore does not take keys with empty or dotted parts, nor with control characters."""
    from botocore.exceptions import HTTPClientError

    bucket, key = split_s3(uri)
    condition = {"IfMatch": f'"{etag}"'} if etag else {}
    with explained(uri):
        answer = connect().client.get_object(
            Bucket=bucket, Key=key, Range=f"bytes={span[0]}-{span[1] - 1}", **condition
        )
        try:
            with answer["Body"] as body:
                return memoryview(body.read())
        except HTTPClientError as error:
            raise OSError(one_line(error)) from error


def write_bytes(uri: str, data: bytes, *, content_type: str | None = None) -> None:
    """Write an object: whole or not at all."""
    bucket, key = split_s3(uri)
    extra = {"ContentType": content_type} if content_type else {}
    with explained(uri):
        if len(data) <= _MULTIPART_BYTES:
            connect().client.put_object(Bucket=bucket, Key=key, Body=data, **extra)
        else:
            connect().client.upload_fileobj(io.BytesIO(data), bucket, key, ExtraArgs=extra)


def write_file(uri: str, file: IO[bytes]) -> None:
    """Write an object from a file that is open, in parts where it is large: whole or not at all."""
    bucket, key = split_s3(uri)
    with explained(uri):
        connect().client.upload_fileobj(file, bucket, key)


def put_if_absent(uri: str, data: bytes) -> bool:
    """Write an object unless there is one, and tell whether this call did."""
    return _put_if(uri, data, IfNoneMatch="*")


def replace_if_match(uri: str, data: bytes, etag: str) -> bool:
    """Write an object if the one there still has this etag, and tell whether it had."""
    return _put_if(uri, data, IfMatch=f'"{etag}"')


def _put_if(uri: str, data: bytes, **condition: str) -> bool:
    """Write an object under a condition (`IfNoneMatch`, `IfMatch`) and tell whether it was met.

    A put whose answer got lost is sent again by boto3 and then meets itself: where that happened, content decides.
    """
    from botocore.exceptions import ClientError

    bucket, key = split_s3(uri)
    with explained(uri):
        for attempt in range(6):
            try:
                connect().client.put_object(Bucket=bucket, Key=key, Body=data, **condition)
            except ClientError as error:
                answer = error.response["ResponseMetadata"]
                if answer["HTTPStatusCode"] == 412:
                    return bool(answer["RetryAttempts"]) and _holds(uri, data)
                if error.response["Error"]["Code"] == "NoSuchKey":
                    return False  # deleted meanwhile: nothing is left to replace
                if answer["HTTPStatusCode"] != 409 or attempt == 5:
                    raise
                time.sleep(0.05 * 2**attempt)  # 409: two at once; S3 asks to try again
            else:
                return True
    raise AssertionError("the last attempt returns or raises")


def _holds(uri: str, data: bytes) -> bool:
    try:
        return stat(uri).size == len(data) and read_bytes(uri) == data
    except NotFoundError:
        return False


def delete(uri: str) -> None:
    """Delete an object; one that does not exist is fine."""
    bucket, key = split_s3(uri)
    with explained(uri):
        connect().client.delete_object(Bucket=bucket, Key=key)
