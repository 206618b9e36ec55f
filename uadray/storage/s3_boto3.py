"""Requests to S3 by boto3: those that obstore cannot make, and those that it made in vain (see `uadray.storage.s3`).

boto3 tries again, for two minutes where the server has answered before (`s3_client`), and its errors carry the code of
the S3 API, by which `s3_errors` tells a wrong clock from a wrong key.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import IO

from uadray.errors import InputError, NotFoundError
from uadray.storage.s3_client import connect
from uadray.storage.s3_errors import explained
from uadray.storage.uris import ObjectInfo, split_s3

_TRIES = 3
"""How often a body that breaks off in the middle is read."""

_CONFLICT_TRIES = 6

_DELETED_AT_ONCE = 1000
"""As many as the S3 API allows."""


def stat(uri: str) -> ObjectInfo:
    """Return size and etag. Asks for a byte first, since the refusal of a HEAD has no body and so says no reason."""
    from botocore.exceptions import ClientError

    bucket, key = split_s3(uri)
    if not key:
        raise InputError(f"{uri}: a bucket, where an object was expected: s3://bucket/key")
    client = connect().client
    with explained(uri):
        try:
            client.get_object(Bucket=bucket, Key=key, Range="bytes=0-0")["Body"].close()
        except ClientError as error:
            if _status(error) != 416:  # an empty object has no first byte
                raise
        answer = client.head_object(Bucket=bucket, Key=key)
    return ObjectInfo(uri, int(answer["ContentLength"]), answer["ETag"].strip('"'))


def visible_buckets() -> int | None:
    """Return how many buckets the credentials show; None if they may not list buckets.

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


def list_objects(uri: str, *, after: str = "") -> Iterator[ObjectInfo]:
    """List the objects in a folder and below, page by page, in the order of the server (on S3 by key).

    With `after`, only those whose names in the folder follow this one.

    Objects that stand for folders (their names end with a slash) are not listed.
    """
    bucket, folder = split_s3(uri)
    prefix = folder.rstrip("/") + "/" if folder.strip("/") else ""
    with explained(uri):
        begin = {"StartAfter": prefix + after} if after else {}
        for page in connect().client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **begin):
            for item in page.get("Contents", ()):
                if not item["Key"].endswith("/"):
                    yield ObjectInfo(f"s3://{bucket}/{item['Key']}", int(item["Size"]), item["ETag"].strip('"'))


def list_folders(uri: str) -> Iterator[str]:
    """List the names of the folders in a folder, not what is in them."""
    bucket, folder = split_s3(uri)
    prefix = folder.rstrip("/") + "/" if folder.strip("/") else ""
    with explained(uri):
        pages = connect().client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
        for page in pages:
            for item in page.get("CommonPrefixes", ()):
                yield item["Prefix"][len(prefix) :].strip("/")


def read_bytes(uri: str, *, max_bytes: int | None = None) -> bytes:
    """Read a whole object."""
    return _read(uri, {}, max_bytes=max_bytes)


def read_range(uri: str, start: int, stop: int, *, etag: str | None) -> bytes:
    """Read one byte range."""
    from botocore.exceptions import ClientError

    options = {"Range": f"bytes={start}-{stop - 1}"} | ({"IfMatch": f'"{etag}"'} if etag else {})
    try:
        blob = _read(uri, options)
    except InputError as error:
        if not (isinstance(error.__cause__, ClientError) and _status(error.__cause__) == 416):
            raise
        blob = b""
    if len(blob) != stop - start:
        raise InputError(f"{uri}: has {stat(uri).size} bytes, bytes {start} to {stop} were asked for")
    return blob


def _read(uri: str, options: dict[str, str], *, max_bytes: int | None = None) -> bytes:
    """Get an object or a part of it. What breaks off in the middle, which boto3 does not retry, is read again."""
    from botocore.exceptions import HTTPClientError, IncompleteReadError, ResponseStreamingError

    bucket, key = split_s3(uri)
    tries = 0
    with explained(uri):
        while True:
            tries += 1
            answer = connect().client.get_object(Bucket=bucket, Key=key, **options)
            if max_bytes is not None and answer["ContentLength"] > max_bytes:
                answer["Body"].close()
                raise InputError(f"{uri}: {answer['ContentLength']} bytes, expected {max_bytes} at most")
            try:
                with answer["Body"] as body:
                    return bytes(body.read())
            except (HTTPClientError, IncompleteReadError, ResponseStreamingError):
                if tries == _TRIES:
                    raise


def write_bytes(uri: str, data: bytes, *, content_type: str | None = None) -> None:
    """Write an object: whole or not at all."""
    bucket, key = split_s3(uri)
    extra = {"ContentType": content_type} if content_type else {}
    with explained(uri):
        connect().client.put_object(Bucket=bucket, Key=key, Body=data, **extra)


def write_file(uri: str, file: IO[bytes], *, content_type: str | None = None) -> None:
    """Write an object from an open file, in parts where it is large: whole or not at all."""
    bucket, key = split_s3(uri)
    extra = {"ContentType": content_type} if content_type else {}
    with explained(uri):
        connect().client.upload_fileobj(file, bucket, key, ExtraArgs=extra)


def put_if(uri: str, data: bytes, *, may_be_written: bool, **condition: str) -> bool:
    """Write an object under a condition (`IfNoneMatch`, `IfMatch`) and tell whether it was met.

    A put whose answer got lost is sent again, and is refused if the first had arrived. After one that may have arrived
    (`may_be_written`, or a retry of boto3), the content of the object decides.
    """
    from botocore.exceptions import ClientError

    bucket, key = split_s3(uri)
    with explained(uri):
        for attempt in range(_CONFLICT_TRIES):
            try:
                connect().client.put_object(Bucket=bucket, Key=key, Body=data, **condition)
            except ClientError as error:
                if _status(error) == 412:
                    is_retry = may_be_written or bool(error.response["ResponseMetadata"]["RetryAttempts"])
                    return is_retry and _holds(uri, data)
                if error.response["Error"]["Code"] == "NoSuchKey":
                    return False  # deleted meanwhile: nothing is left to replace
                if _status(error) != 409 or attempt == _CONFLICT_TRIES - 1:
                    raise
                time.sleep(0.05 * 2**attempt)  # 409: two writers at once; S3 asks to try again
            else:
                return True
    raise AssertionError("the last attempt returns or raises")


def delete(uri: str) -> None:
    """Delete an object; one that does not exist is fine."""
    bucket, key = split_s3(uri)
    with explained(uri):
        connect().client.delete_object(Bucket=bucket, Key=key)


def delete_all(uris: Sequence[str]) -> None:
    """Delete objects, a thousand a request; what a server leaves, or one without such requests, is deleted singly."""
    from botocore.exceptions import ClientError

    by_bucket = defaultdict[str, list[str]](list)
    for uri in uris:
        bucket, key = split_s3(uri)
        by_bucket[bucket].append(key)
    for bucket, keys in by_bucket.items():
        for start in range(0, len(keys), _DELETED_AT_ONCE):
            some = keys[start : start + _DELETED_AT_ONCE]
            try:
                wanted = {"Objects": [{"Key": key} for key in some], "Quiet": True}
                answer = connect().client.delete_objects(Bucket=bucket, Delete=wanted)
                left = [error["Key"] for error in answer.get("Errors", ())]
            except ClientError:
                left = some
            for key in left:
                delete(f"s3://{bucket}/{key}")


def _status(error: Exception) -> int:
    """Return the HTTP status of a ClientError."""
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])  # type: ignore[attr-defined]


def _holds(uri: str, data: bytes) -> bool:
    try:
        return stat(uri).size == len(data) and read_bytes(uri) == data
    except NotFoundError:
        return False
