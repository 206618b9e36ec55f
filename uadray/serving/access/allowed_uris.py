"""Which slides, manifests and bundles may be read: those below configured folders and s3:// prefixes, and no others.

A URI is taken as the reading code takes it: s3:// keys as they are, `file://` percent-decoded, paths with their links
resolved. What two readers could understand differently is refused.
"""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from uadray.errors import InputError, NotFoundError
from uadray.storage import objects
from uadray.storage.slide_files import has_many_files, slide_files
from uadray.storage.uris import split_s3

MAX_URI_LENGTH = 2048


class ForbiddenUriError(InputError):
    """A URI that may not be read here. The message does not say whether there is anything."""


def check_uri(uri: str, allowed: Sequence[str]) -> str:
    """The URI as it may be read: an s3:// URI unchanged, a local one as the absolute path without links.

    Args:
        uri: from outside.
        allowed: folders and s3:// prefixes; a prefix ends at a `/`, whether it is written or not.

    Raises:
        ForbiddenUriError: it is not below any of them, or is not one that everybody reads in the same way.
    """
    _check_plain(uri)
    try:
        is_s3 = objects.is_s3(uri)
        if is_s3:
            _check_s3(uri)
            if any(objects.is_s3(prefix) and _is_below_s3(uri, prefix) for prefix in allowed):
                return uri
        else:
            path = _real(uri)
            if any(not objects.is_s3(folder) and _is_below(path, _real(folder)) for folder in allowed):
                return str(path)
    except InputError as error:
        if isinstance(error, ForbiddenUriError):
            raise
        raise ForbiddenUriError(
            "expected s3://bucket/key, or a path or file:///path where a folder is allowed"
        ) from None
    kind = "s3:// prefixes" if is_s3 else "folders"
    raise ForbiddenUriError(f"not below any of the {kind} that this endpoint may read from")


def check_slide(uri: str, allowed: Sequence[str]) -> str:
    """As `check_uri`, of a slide; of one that is several files on a disk every file is looked at.

    In S3 the files of a slide have the prefix of the first, and their names are checked when they are copied. What is
    missing is for whoever reads the slide to say.

    Raises:
        ForbiddenUriError: the slide, or a file of it, is not below any of the allowed folders and prefixes.
    """
    place = check_uri(uri, allowed)
    if objects.is_s3(place) or not has_many_files(place):
        return place
    try:
        members = slide_files(place).members
    except NotFoundError:
        return place
    except InputError as error:
        raise ForbiddenUriError(
            "a slide of several files that cannot be told, or whose names lead elsewhere"
        ) from error
    for member in members:
        check_uri(member.info.uri, allowed)
    return place


def _check_plain(uri: str) -> None:
    """Refuse what no URI of a slide has, and what looks like something else than it is."""
    if not uri or len(uri) > MAX_URI_LENGTH:
        raise ForbiddenUriError(f"expected a URI of 1 to {MAX_URI_LENGTH} characters")
    if uri != uri.strip() or any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") for c in uri):
        raise ForbiddenUriError("a URI with control characters, or that begins or ends with a space")
    if unicodedata.normalize("NFKC", uri).count("/") != uri.count("/") or "\\" in uri:
        raise ForbiddenUriError("a URI with characters that look like /")


def _check_s3(uri: str) -> None:
    """Refuse an s3:// URI that does not name one key in one bucket, whoever takes it apart.

    Clients of S3 join the key to an address: segments of dots would be taken away there, and the rest would be another
    bucket's.
    """
    if not uri.startswith("s3://"):
        raise ForbiddenUriError("expected s3:// in lower case")
    bucket, key = split_s3(uri)
    if not all(c.isascii() and (c.isalnum() or c in ".-_") for c in bucket) or bucket in (".", ".."):
        raise ForbiddenUriError("a bucket with characters that no bucket has")
    if any(segment in ("", ".", "..") for segment in key.removesuffix("/").split("/")):
        raise ForbiddenUriError("a key with empty segments, `.` or `..`")
    if any(c in key for c in "?#"):
        raise ForbiddenUriError("a key with ? or #")
    lowered = key.lower()
    if any(encoded in lowered for encoded in ("%2e", "%2f", "%5c", "%00")):
        raise ForbiddenUriError("a key with encoded dots or slashes")


def _is_below_s3(uri: str, prefix: str) -> bool:
    return uri == prefix.rstrip("/") or uri.startswith(prefix.rstrip("/") + "/")


def _real(uri: str) -> Path:
    """The absolute path of a local URI, all links resolved; it need not exist."""
    return Path(os.path.realpath(objects.local_path(uri)))


def _is_below(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents
