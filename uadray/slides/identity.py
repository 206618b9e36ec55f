"""Whether slides are the same, whatever they are called: by their place, by their content, by marks of what was seen.

A mark is a hash of a salt and one of a slide's names: its id, its URI, its etag, its content, its patient. Marks tell a
bundle's reader which of *their* slides it has seen, and nobody else anything at sight: the salt, drawn anew for each
bundle and calibration, lets no table of hashes be made beforehand, and no two bundles be compared. It lies beside them:
whoever has the bundle and can guess an id (a running number, say) can confirm the guess.
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
"""Of a file's bytes, from its first to its last. Two slides of one size that agree in all of them are the same: in
compressed pixels any sample differs, and of uncompressed ones no more than the first and last lie on glass."""

_REQUESTS = 32


@dataclass(frozen=True)
class Seen:
    """Marks of slides and patients that were seen. Without a salt they are hashes of slide ids alone (uadray 0.1)."""

    salt: str
    marks: frozenset[str]


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
    """Sixteen hex digits over what is in a slide: equal for copies in S3 and on a disk, under whatever names.

    Of several files, the sizes of all and samples of the largest. A slide that was saved anew is another.

    Raises:
        UadrayError: it is not there or cannot be read.
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
    """Slide id -> `content`. One that cannot be read is absent: whoever reads it next says why.

    Raises:
        UnreachableError: the endpoint does not answer.
    """
    with ThreadPoolExecutor(_REQUESTS) as pool:
        found = zip(rows, pool.map(_content_or_none, rows), strict=True)
        return {row.slide_id: one for row, one in found if one is not None}


def _content_or_none(row: SlideRow) -> str | None:
    try:
        return content(row.uri)
    except UnreachableError:
        raise
    except UadrayError:
        return None


def new_salt() -> str:
    """For `Seen`."""
    return secrets.token_hex(16)


def marks(row: SlideRow, salt: str, *, etag: str | None = None, content: str | None = None) -> set[str]:
    """The marks of a slide under its id, its place and, where they are known, its etag and content."""
    if not salt:
        return {fingerprint([row.slide_id])}
    names = {"id": row.slide_id, "uri": row.uri, "etag": etag, "content": content}
    return {fingerprint([salt, kind, name]) for kind, name in names.items() if name}


def patient_mark(row: SlideRow, salt: str) -> str | None:
    """The mark of a slide's patient; None where nobody is named."""
    return fingerprint([salt, "patient", row.patient_id]) if salt and row.patient_id else None


def all_marks(
    rows: Iterable[SlideRow], salt: str, *, etags: Mapping[str, str | None], contents: Mapping[str, str]
) -> list[str]:
    """The marks of slides and of their patients, sorted. `etags` and `contents`: by slide id."""
    found: set[str] = set()
    for row in rows:
        found |= marks(row, salt, etag=etags.get(row.slide_id), content=contents.get(row.slide_id))
        found |= {mark for mark in (patient_mark(row, salt),) if mark}
    return sorted(found)


def is_seen(row: SlideRow, seen: Seen, *, etag: str | None = None, content: str | None = None) -> bool:
    """Whether a slide is one of those, under any of the names that are known of it."""
    return bool(seen.marks) and not seen.marks.isdisjoint(marks(row, seen.salt, etag=etag, content=content))


def groups(names: Mapping[str, str]) -> list[list[str]]:
    """Slide ids that have the same name: of `names`, slide id -> name, those that several share."""
    found: dict[str, list[str]] = defaultdict(list)
    for slide_id, name in names.items():
        found[name].append(slide_id)
    return [ids for ids in found.values() if len(ids) > 1]


def warn_of_same_files(rows: Collection[SlideRow]) -> None:
    """Warn where one file stands in a manifest under several ids."""
    same = groups({row.slide_id: row.uri for row in rows})
    if same:
        which = "; ".join(", ".join(map(shown, ids[:5])) for ids in islice(same, 3))
        log.warning(
            "%d of %d slides are files that the manifest has under several ids: %s",
            sum(map(len, same)), len(rows), which,
        )  # fmt: skip
