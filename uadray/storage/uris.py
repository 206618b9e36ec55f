"""URIs of objects: their parts, joining and resolving. Nothing here touches a disk or a network.

A URI is a local path, `file:///folder/slide.svs` (percent-encoded), or `s3://bucket/key` (the key as it is).
"""

import os
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from uadray.errors import InputError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")


@dataclass(frozen=True)
class ObjectInfo:
    """One object: its URI, its size in bytes, and its etag, which changes when the content does.

    The etag of an S3 object is the server's, without quotes. That of a local file is made of its size and its time of
    modification in nanoseconds; not of its inode, which network file systems number anew at every mount.
    """

    uri: str
    size: int
    etag: str


def _scheme(uri: str) -> str:
    """Return the scheme in lower case, empty for a plain path; refuse those that are not supported."""
    match = _SCHEME.match(uri)
    scheme = match[1].lower() if match else ""
    if scheme not in ("", "file", "s3"):
        raise InputError(f"{uri}: {scheme}:// is not supported; use a local path, file:///path or s3://bucket/key")
    return scheme


def is_s3(uri: str) -> bool:
    """Tell whether the URI is in object storage; refuse schemes that are not supported.

    >>> is_s3("s3://bucket/a.svs"), is_s3("/data/a.svs"), is_s3("file:///data/a.svs")
    (True, False, False)
    """
    return _scheme(uri) == "s3"


def split_s3(uri: str) -> tuple[str, str]:
    """Return bucket and key.

    >>> split_s3("s3://bucket/folder/a b.svs")
    ('bucket', 'folder/a b.svs')

    Raises:
        InputError: there is no bucket in it.
    """
    bucket, _, key = uri[len("s3://") :].partition("/")
    if not bucket:
        raise InputError(f"{uri}: the bucket is missing; expected s3://bucket/key")
    return bucket, key


def local_path(uri: str) -> Path:
    """Return the path of a local URI.

    Raises:
        InputError: the URI is empty, not local, or names another host.
    """
    return Path(_local(uri))


def _local(uri: str) -> str:
    """Return the path as text, which is several times faster: manifests may have a million rows."""
    scheme = _scheme(uri)
    path = uri
    if scheme:
        host, slash, rest = uri[len(scheme) + len("://") :].partition("/")
        if scheme == "s3" or host not in ("", "localhost") or not slash:
            raise InputError(f"{uri}: expected a local path or file:///path")
        path = unquote(f"/{rest}")
    if not path or "\0" in path:
        raise InputError(f"{uri!r}: expected a path")
    return path


def join(uri: str, *names: str) -> str:
    """Append names to a folder.

    >>> join("s3://bucket/run/", "tiles", "a.parquet"), join("/data", "a.svs"), join("s3://bucket", "a.svs")
    ('s3://bucket/run/tiles/a.parquet', '/data/a.svs', 's3://bucket/a.svs')
    """
    if is_s3(uri):
        return "/".join([uri.rstrip("/"), *(part.strip("/") for part in names)])
    return str(local_path(uri).joinpath(*(part.strip("/") for part in names)))


def parent(uri: str) -> str:
    """Return the folder: that of a bucket is the bucket.

    >>> parent("s3://bucket/run/a.csv"), parent("s3://bucket"), parent("/data/a.csv"), parent("a.csv")
    ('s3://bucket/run', 's3://bucket', '/data', '.')
    """
    if not is_s3(uri):
        return str(local_path(uri).parent)
    bucket, key = split_s3(uri)
    return f"s3://{bucket}/{posixpath.dirname(key.rstrip('/'))}".rstrip("/")


def name(uri: str) -> str:
    """Return the last part, with its suffix.

    >>> name("s3://bucket/run/a.csv"), name("/data/run/"), name("s3://bucket")
    ('a.csv', 'run', 'bucket')
    """
    return posixpath.basename(uri.rstrip("/")) if is_s3(uri) else local_path(uri).name


def resolve(uri: str, base: str) -> str:
    """Return a URI that may be relative to the folder `base` as one that is not; local ones become absolute paths.

    A plain absolute path in a manifest in S3 is refused, since it would name a file on whichever node reads it. For a
    share that every node mounts, the manifest says `file:///`.

    >>> resolve("../slides/a.svs", "s3://bucket/manifests"), resolve("a.svs", "/data")
    ('s3://bucket/slides/a.svs', '/data/a.svs')

    Raises:
        InputError: an unknown scheme, a path out of the bucket, or an absolute path beside a base in S3.
    """
    if is_s3(uri):
        return uri
    if not is_s3(base):
        return os.path.abspath(os.path.join(_local(base), _local(uri)))  # noqa: PTH100, PTH118
    if _SCHEME.match(uri):
        return os.path.normpath(_local(uri))
    if _local(uri).startswith("/"):
        raise InputError(
            f"{uri}: an absolute path in a manifest that lies in {base}; write s3://bucket/key, a path relative to the "
            f"manifest, or file://{uri} where every node mounts it"
        )
    bucket, folder = split_s3(base)
    key = posixpath.normpath(posixpath.join(folder, uri))
    if key == ".." or key.startswith("../"):
        raise InputError(f"{uri}: leads out of the bucket {bucket}, seen from {base}")
    return f"s3://{bucket}/{key}"
