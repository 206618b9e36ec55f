"""Whether two slides are the same, whatever their names: by version, by content, or by marks of slides that were seen.

A mark is a hash of a salt and one of a slide's names: its id, its URI, its etag, its content, its patient. Marks are
kept in a bundle, so that its user can find out which of their own slides it was trained on, without the bundle holding
any id. The salt is drawn anew for each bundle and calibration: no table of hashes can be made beforehand, and marks of
two bundles cannot be compared. The salt lies beside the marks, so whoever has the bundle and can guess an id (a running
number, say) can confirm the guess.
"""

import hashlib
import logging
import secrets
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from uadray.errors import NotFoundError, SlideError, UadrayError, UnreachableError, shown
from uadray.provenance import fingerprint
from uadray.slides.manifest import SlideRow
from uadray.storage import objects, slide_files
from uadray.storage.slide_files import SlideFiles

log = logging.getLogger(__name__)

SAMPLES, SAMPLE_BYTES = 8, 16 * 2**10
"""Samples of a file's bytes, evenly spaced from its first byte to its last. Two slides of one size that agree in all
samples are taken for the same: compressed pixels differ in any sample, and of uncompressed pixels only the first and
the last sample lie on glass."""

_REQUESTS = 32


@dataclass(frozen=True)
class Seen:
    """Marks of slides and patients that were seen. Those of uadray 0.1 have no salt, and are of slide ids alone.

    Attributes:
        salt: of these marks.
        marks: see `marks`.
        others: marks with other salts, of the parts of what was trained.
    """

    salt: str
    marks: frozenset[str]
    others: tuple["Seen", ...] = ()


def slide_etag(row: SlideRow) -> str:
    """The version of a slide's file, as storage names it; of all its files where it has many.

    Raises:
        SlideError: reason `missing`.
    """
    try:
        return slide_files.slide_stat(row.uri).etag
    except NotFoundError as error:
        raise SlideError(row.slide_id, "missing", str(error)) from error


def content(uri: str) -> str:
    """Sixteen hex digits of a slide's content: equal for copies in S3 and on a disk, whatever their names are.

    They are computed from the sizes of all its files and from samples of the largest one. A slide that was saved anew
    has another content.

    Raises:
        UadrayError: the slide is not there or cannot be read.
    """
    return _content(slide_files.slide_files(uri))


@lru_cache(maxsize=100_000)
def _content(files: SlideFiles) -> str:
    largest = max((member.info for member in files.members), key=lambda info: (info.size, info.uri))
    starts = {i * max(0, largest.size - SAMPLE_BYTES) // (SAMPLES - 1) for i in range(SAMPLES)}
    ranges = [(start, min(start + SAMPLE_BYTES, largest.size)) for start in sorted(starts)]
    digest = hashlib.sha256(repr(sorted(member.info.size for member in files.members)).encode())
    for sample in objects.read_ranges(largest.uri, ranges, etag=largest.etag):
        digest.update(sample)
    return digest.hexdigest()[:16]


def contents(rows: Collection[SlideRow]) -> dict[str, str]:
    """Slide id -> `content`. A slide that cannot be read is absent; whoever reads it next reports why.

    Raises:
        UnreachableError: the endpoint does not answer.
    """
    with ThreadPoolExecutor(_REQUESTS) as pool:
        digests = zip(rows, pool.map(_content_or_none, rows), strict=True)
        return {row.slide_id: digest for row, digest in digests if digest is not None}


def _content_or_none(row: SlideRow) -> str | None:
    try:
        return content(row.uri)
    except UnreachableError:
        raise
    except UadrayError:
        return None


def new_salt() -> str:
    """A new random salt for marks, as text."""
    return secrets.token_hex(16)


def marks(row: SlideRow, salt: str, *, etag: str | None = None, content: str | None = None) -> set[str]:
    """The marks of a slide under its id, its place and, where they are known, its etag and content."""
    if not salt:
        return {fingerprint([row.slide_id])}
    names = {"id": row.slide_id, "uri": row.uri, "etag": etag, "content": content}
    return {fingerprint([salt, kind, name]) for kind, name in names.items() if name}


def patient_mark(row: SlideRow, salt: str) -> str | None:
    """The mark of a slide's patient; None where no patient is named."""
    return fingerprint([salt, "patient", row.patient_id]) if salt and row.patient_id else None


def all_marks(
    rows: Iterable[SlideRow], salt: str, *, etags: Mapping[str, str | None], contents: Mapping[str, str]
) -> list[str]:
    """The marks of slides and of their patients, sorted. `etags` and `contents`: by slide id."""
    all_of_them: set[str] = set()
    for row in rows:
        all_of_them |= marks(row, salt, etag=etags.get(row.slide_id), content=contents.get(row.slide_id))
        all_of_them |= {mark for mark in (patient_mark(row, salt),) if mark}
    return sorted(all_of_them)


def is_seen(row: SlideRow, seen: Seen, *, etag: str | None = None, content: str | None = None) -> bool:
    """Whether a slide is one of those that were seen, under any of the names that are known of it."""
    return any(
        each.marks and not each.marks.isdisjoint(marks(row, each.salt, etag=etag, content=content))
        for each in (seen, *seen.others)
    )


def is_patient_seen(row: SlideRow, seen: Seen) -> bool:
    """Whether the slide's patient is one of those whose slides were seen."""
    return any(patient_mark(row, each.salt) in each.marks for each in (seen, *seen.others))


def groups(names: Mapping[str, str]) -> list[list[str]]:
    """The groups of slides that share a name; `names` is slide id -> name, for example its URI or its content."""
    ids_of: dict[str, list[str]] = defaultdict(list)
    for slide_id, name in names.items():
        ids_of[name].append(slide_id)
    return [ids for ids in ids_of.values() if len(ids) > 1]


def warn_of_same_files(rows: Collection[SlideRow]) -> None:
    """Warn where one file stands in a manifest under several ids."""
    same = groups({row.slide_id: row.uri for row in rows})
    if same:
        which = "; ".join(", ".join(map(shown, ids[:5])) for ids in islice(same, 3))
        log.warning(
            "%d of %d slides are files that the manifest has under several ids: %s",
            sum(map(len, same)), len(rows), which,
        )  # fmt: skip
