"""Which slides are read by one task: small ones together, since a task costs milliseconds whatever it reads.

    few slides, a large one, one of unknown size, or one of several files    a task for each
    many small ones                                                         up to GROUP_SLIDES and GROUP_BYTES a task

A slide's size is what a listing says: no slide is asked for by itself.
"""

from collections.abc import Sequence
from pathlib import Path

from uadray.screening.slide_listing import listed
from uadray.slides.manifest import SlideRow
from uadray.storage import objects
from uadray.storage.dicom_series import DICOM_SUFFIXES

MIN_SLIDES = 200
"""Fewer slides are read one a task, and not listed: what a task costs is then a second in all."""

GROUP_SLIDES, GROUP_BYTES = 32, 32 * 2**20
"""Of one task at most. So many bytes are read and decoded within seconds, so that no worker waits long at the end."""

TASKS_PER_CORE = 8
"""At least, where slides are grouped: workers end at about the same time."""

_OF_SEVERAL_FILES = (".mrxs", ".vms", ".vmu", ".vsi", *DICOM_SUFFIXES)
"""The size of the file that is named says nothing about such a slide."""


def slide_groups(rows: Sequence[SlideRow], *, n_cores: int) -> list[list[SlideRow]]:
    """The slides of each read task, in the order of `rows`."""
    most = min(GROUP_SLIDES, len(rows) // (TASKS_PER_CORE * max(1, n_cores)))
    if len(rows) < MIN_SLIDES or most < 2:
        return [[row] for row in rows]
    sizes = _sizes(rows)
    groups: list[list[SlideRow]] = []
    left, bytes_left = 0, 0
    for row in rows:
        size = sizes.get(row.uri, GROUP_BYTES)
        if left <= 0 or bytes_left < size:
            groups.append([])
            left, bytes_left = most, GROUP_BYTES
        groups[-1].append(row)
        left, bytes_left = left - 1, bytes_left - size
    return groups


def _sizes(rows: Sequence[SlideRow]) -> dict[str, int]:
    """Bytes of the slides of one file that are known, by URI."""
    uris = [row.uri for row in rows if not row.uri.lower().endswith(_OF_SEVERAL_FILES)]
    sizes = {uri: info.size for uri, info in listed(uris).items()}
    for uri in uris:
        if not objects.is_s3(uri):
            path = Path(objects.local_path(uri))
            if path.is_file():
                sizes[uri] = path.stat().st_size
    return sizes
