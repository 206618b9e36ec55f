"""Which slides are decided in the present version of their file: at the start all at once, later one by one."""

import hashlib

from uadray.errors import SlideError
from uadray.screening import decision_segments, leases
from uadray.screening.arrivals import Arrival, slide_id_of
from uadray.screening.ledger import Ledger
from uadray.screening.slide_outputs import decisions_of
from uadray.slides.identity import slide_etag


def digest(text: str) -> int:
    """Eight bytes that stand for a text: a number for each of many slides takes little room."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


NO_ETAG = digest("")
"""Of a decision that tells no version of its slide's file: a failure."""


def decided_before(book: Ledger, *, retry_failed: bool) -> tuple[dict[int, int], dict[str, str]]:
    """What is decided at the start: slide -> version of its file, as digests; and URI -> id where that is of its own.

    Slides that are to be done again because they have failed are withdrawn in the ledger instead.
    """
    decided = decision_segments.read_decisions(book.out)
    decision_segments.tidy(book.out, decided, whole=False)
    columns = ("slide_id", "uri", "etag", "state", "decision_etag")
    known: dict[int, int] = {}
    ids: dict[str, str] = {}
    for slide_id, uri, etag, state, decision_etag in zip(
        *(decided.table[name].to_pylist() for name in columns), strict=True
    ):
        known[digest(slide_id)] = digest(etag or "")
        ids[uri] = slide_id
        if retry_failed and state == "failed":
            book.withdrawn[slide_id] = decision_etag
    for slide_id in book.withdrawn:
        del known[digest(slide_id)]
    return known, {uri: slide_id for uri, slide_id in ids.items() if not _follows_from(uri, slide_id)}


def _follows_from(uri: str, slide_id: str) -> bool:
    """Whether an id may be the one that follows from the slide's path in some folder above it."""
    parts = uri.split("/")
    return any(slide_id_of("/".join(parts[place:])) == slide_id for place in range(len(parts) - 1, 0, -1))


def outdated(out: str, arrival: Arrival) -> str | None:
    """Etag of a slide's decision that is about another version of its file, empty where it has none; else None.

    A decision that tells no version is a failure; that stands until the file changes. So does one whose file is gone.
    """
    try:
        etag = slide_etag(arrival.row)
    except SlideError:
        return None
    etag_and_record = leases.read_with_etag(leases.decision_uri(out, arrival.row.slide_id))
    if etag_and_record is None:
        return ""
    versions = {decision["etag"] for decision in decisions_of(etag_and_record[1])}
    is_current = etag in versions or (None in versions and not arrival.is_change)
    return None if is_current else etag_and_record[0]
