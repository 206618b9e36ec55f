"""Where a slide's bytes come from: a local file by `pread`, an object in S3 by ranges, each with `If-Match`.

Both read one version of the file: where it changes, they raise `ChangedError` instead of mixing two versions.
"""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from uadray.errors import AccessError, ChangedError, NotFoundError, SlideError, UadrayError, UnreachableError
from uadray.storage import objects
from uadray.storage.s3 import JOIN_GAP_BYTES, read_ends

Span = tuple[int, int]
"""Bytes from `start` to before `stop`."""

HEAD_BYTES, TAIL_BYTES = 16 * 2**10, 32 * 2**10
"""Bytes that are read on opening. The directories of a TIFF stand at its beginning, or each behind its level, so that
the last one stands at the end."""

WASTE = 0.3
"""Share of the wanted bytes that may be read in vain, to join requests across gaps: a gap costs less than a request,
unless there are many gaps."""


class ByteSource(Protocol):
    """A file of known size.

    Attributes:
        name: its path or URI, for errors.
        size: in bytes.
        remote: each read costs a round trip, so that it pays to ask for much at once, and ahead of time.
        known: what was read on opening, as pairs of an offset and bytes; the first pair is the file's beginning.
    """

    name: str
    size: int
    remote: bool
    known: list[tuple[int, bytes]]

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        """The bytes of each span, in the order asked for.

        Raises:
            ChangedError: the file is no longer the one that was opened.
            UadrayError: it cannot be read.
        """
        ...

    def close(self) -> None:
        """Free what is held."""
        ...


class LocalFile:
    """A file on this machine. Safe to read from several threads."""

    remote = False

    def __init__(self, path: Path, *, etag: str | None = None) -> None:
        self.name = str(path)
        self._file = os.open(path, os.O_RDONLY)
        try:
            info = objects.stat(str(path))
            status = os.fstat(self._file)
            self.size, self._version = status.st_size, (status.st_size, status.st_mtime_ns)
            if info.size != self.size or etag not in (None, info.etag):
                raise ChangedError(f"{path}: the file has changed since it was looked at; start again")
            self.known = [(0, os.pread(self._file, HEAD_BYTES, 0))]
        except BaseException:
            self.close()
            raise

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        """See `ByteSource.read`."""
        try:
            blobs = [os.pread(self._file, stop - start, start) for start, stop in spans]
            now = os.fstat(self._file)
        except OSError as error:
            raise UadrayError(f"{self.name}: cannot be read: {error.strerror or error}") from error
        if (now.st_size, now.st_mtime_ns) != self._version:
            raise ChangedError(f"{self.name}: the file was written to while it was read; start again")
        for blob, (start, stop) in zip(blobs, spans, strict=True):
            if len(blob) != stop - start:
                raise UadrayError(f"{self.name}: bytes {start} to {stop} cannot be read")
        return blobs

    def close(self) -> None:
        """Free the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class RemoteObject:
    """An object in S3, the version that was there when it was opened. Safe to read from several threads."""

    remote = True

    def __init__(self, uri: str, *, etag: str | None = None) -> None:
        info, head, tail = read_ends(uri, etag=etag, head_bytes=HEAD_BYTES, tail_bytes=TAIL_BYTES)
        self.name, self.size, self._etag = uri, info.size, info.etag
        self.known = [(0, head), (info.size - len(tail), tail)]

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        """See `ByteSource.read`."""
        return objects.read_ranges(self.name, spans, etag=self._etag, gap_bytes=_gap_bytes(spans))

    def close(self) -> None:
        """Nothing is held: connections belong to the process."""


def _gap_bytes(spans: Sequence[Span]) -> int:
    """How far apart spans may lie to be read as one: 64 KiB, or less where that would read more than `WASTE` in vain.

    >>> _gap_bytes([(0, 40_000), (50_000, 90_000), (120_000, 130_000)])
    29999
    """
    ordered = sorted(spans)
    gaps = sorted(max(0, start - stop) for (_, stop), (start, _) in itertools.pairwise(ordered))
    budget = WASTE * sum(stop - start for start, stop in ordered)
    allowed = JOIN_GAP_BYTES
    for gap in gaps:
        budget -= gap
        if budget < 0:
            return min(allowed, gap - 1) if gap <= allowed else allowed
    return allowed


def open_source(uri: str, *, etag: str | None = None) -> LocalFile | RemoteObject:
    """Open a local path, `file://` or `s3://`."""
    if objects.is_s3(uri):
        return RemoteObject(uri, etag=etag)
    return LocalFile(objects.local_path(uri), etag=etag)


def slide_error(slide_id: str, error: Exception) -> SlideError:
    """What an error of storage means for the slide: `changed`, `missing`, `no_access`, `unreachable`, `unreadable`."""
    reasons = {
        ChangedError: "changed",
        NotFoundError: "missing",
        AccessError: "no_access",
        UnreachableError: "unreachable",
    }
    reason = next((reason for kind, reason in reasons.items() if isinstance(error, kind)), "unreadable")
    return SlideError(slide_id, reason, str(error))
