"""The series that a DICOM file belongs to: a slide in DICOM is all files of one series in a folder."""

import struct
from functools import lru_cache

from uadray.errors import ChangedError, NotFoundError
from uadray.storage import objects
from uadray.storage.uris import ObjectInfo

DICOM_SUFFIXES = (".dcm", ".dicom")

_HEADER_BYTES = (16 * 2**10, 2**20)  # what is read first, and what if the series is not in it
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_UNDEFINED = 0xFFFFFFFF


@lru_cache(maxsize=100_000)
def series(info: ObjectInfo) -> str | None:
    """Return the series of a file; None for what is no DICOM, or is gone. Cached, as folders may hold many slides."""
    for n_bytes in _HEADER_BYTES:
        try:
            (data,) = objects.read_ranges(info.uri, [(0, min(info.size, n_bytes))], etag=info.etag)
        except (ChangedError, NotFoundError):
            return None
        try:
            return series_uid(data)
        except struct.error:  # the data ends before the series
            if len(data) == info.size:
                return None
    return None


def series_uid(data: bytes) -> str | None:
    """Return the SeriesInstanceUID (0020,000E) of a DICOM file from its first bytes.

    See DICOM PS3.5 and PS3.10, sections 7. Sequences before it may hold the series of other files, so only elements at
    depth 0 count.

    Raises:
        struct.error: `data` ends before it.
    """
    if data[128:132] != b"DICM":
        return None
    place, depth, syntax = 132, 0, b""
    while True:
        tag = struct.unpack_from("<HH", data, place)
        explicit = tag[0] == 2 or (tag[0] != 0xFFFE and syntax != b"1.2.840.10008.1.2")
        long = explicit and data[place + 4 : place + 6] in _LONG
        form, at, step = ("<I", 8, 12) if long else ("<H", 6, 8) if explicit else ("<I", 4, 8)
        (length,) = struct.unpack_from(form, data, place + at)
        place += step
        if tag in ((0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)):
            depth -= 1
        elif length == _UNDEFINED:
            depth += 1
        else:
            (value,) = struct.unpack_from(f"{min(length, 64)}s", data, place)
            place += length
            if tag == (0x0002, 0x0010):
                syntax = value.strip(b"\0 ")
            if depth == 0 and tag >= (0x0020, 0x000E):
                return value.strip(b"\0 ").decode("ascii", "replace") if tag == (0x0020, 0x000E) else None
