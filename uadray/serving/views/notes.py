"""What reviewers note about slides: a flag and a text each, with who and when, and what was noted before.

    <out>/notes/<screening>/<slide_id>.json   the note as it is, and its history, newest first

Notes lie beside decisions and change nothing of them. Every put is conditional: who has not seen the note that is there
does not overwrite it.
"""

import json
import threading
import time
import unicodedata
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from uadray.errors import NotFoundError
from uadray.screening.leases import REQUESTS, read_version, read_with_etag
from uadray.serving.views.screenings import FRESH_S, PATIENCE, Screening
from uadray.storage import objects

FOLDER = "notes"

Flag = Literal["", "follow_up", "benign", "artefact", "anomaly"]
FLAGS: tuple[Flag, ...] = get_args(Flag)

MAX_TEXT = 2000
MAX_HISTORY = 50
"""Earlier notes that are kept of a slide."""


class ConflictError(Exception):
    """The note is another than its writer has seen."""


@dataclass(frozen=True)
class Note:
    """A note.

    Attributes:
        flag: of `FLAGS`; empty for none.
        text: plain, lines end with a newline.
        who: name of the token that wrote it.
        when: UTC, ISO 8601.
    """

    flag: Flag
    text: str
    who: str
    when: str


def plain_text(text: str) -> str:
    r"""A text without what cannot be seen: controls but for line ends and tabs, and marks that turn the direction.

    >>> plain_text("a\x00b\r\n\u202ec ")
    'ab\nc'
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    seen = (c for c in lines if c in "\n\t" or not _is_unseen(c))
    return "".join(seen).strip()


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") or character in _DIRECTION


_DIRECTION = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")


class Notes:
    """The notes of an endpoint. Safe to use from several threads.

    Args:
        out: the endpoint's folder.
        fresh_s: for so long a listing is not looked at again.
    """

    def __init__(self, out: str, *, fresh_s: float = FRESH_S) -> None:
        self._out, self._fresh_s = out, fresh_s
        self._listings: dict[str, _Listing] = {}
        self._lock = threading.Lock()

    def get(self, screening: Screening, slide_id: str) -> tuple[Note | None, str | None]:
        """A slide's note and its etag; None where there is none."""
        found = read_with_etag(self._uri(screening, slide_id))
        return (None, None) if found is None else (_note(found[1]), found[0])

    def put(self, screening: Screening, slide_id: str, note: Note, *, etag: str | None) -> str:
        """Store a note; returns its etag.

        Args:
            screening: of the slide.
            slide_id: an id that is known to be one.
            note: to store; its text is made plain and cut to `MAX_TEXT`.
            etag: of the note that it replaces; None where there is none.

        Raises:
            ConflictError: another note is there.
        """
        uri = self._uri(screening, slide_id)
        before = read_with_etag(uri)
        if (before[0] if before else None) != etag:
            raise ConflictError
        history = []
        if before is not None:
            earlier = before[1].get("history")
            history = [asdict(_note(before[1])), *(earlier if isinstance(earlier, list) else [])][:MAX_HISTORY]
        data = json.dumps(asdict(note) | {"history": history}, ensure_ascii=False).encode()
        is_put = objects.put_if_absent(uri, data) if etag is None else objects.replace_if_match(uri, data, etag)
        if not is_put:
            raise ConflictError
        with self._lock:
            if screening.name in self._listings:
                self._listings[screening.name].fresh_until = 0.0
        found = read_with_etag(uri)
        if found is None or found[1] != json.loads(data):  # replaced this very moment by who has seen it
            raise ConflictError
        return found[0]

    def of(self, screening: Screening) -> Mapping[str, Note]:
        """All notes of a screening by slide id; not to be changed."""
        with self._lock:
            listing = self._listings.setdefault(screening.name, _Listing())
        with listing.lock:
            if time.monotonic() >= listing.fresh_until:
                began = time.monotonic()
                listing.read(objects.join(self._out, FOLDER, screening.name))
                took = time.monotonic() - began
                listing.fresh_until = time.monotonic() + max(self._fresh_s, PATIENCE * took)
            return listing.notes

    def _uri(self, screening: Screening, slide_id: str) -> str:
        return objects.join(self._out, FOLDER, screening.name, f"{slide_id}.json")


class _Listing:
    """The notes of a screening as they were at the last look."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.fresh_until = 0.0
        self.notes: dict[str, Note] = {}
        self._etags: dict[str, str] = {}

    def read(self, folder: str) -> None:
        """Look again: what has another etag is read."""
        listed = {
            objects.name(info.uri).removesuffix(".json"): info
            for info in objects.list_many(folder, suffixes=(".json",))
        }
        changed = {key: info for key, info in listed.items() if self._etags.get(key) != info.etag}
        with ThreadPoolExecutor(REQUESTS) as pool:
            read = dict(zip(changed, pool.map(_read, changed.values()), strict=True))
        kept = {key: note for key, note in self.notes.items() if key in listed and key not in changed}
        self.notes = kept | {key: note for key, note in read.items() if note is not None}
        self._etags = {key: info.etag for key, info in listed.items() if key in self.notes}


def new_note(flag: Flag, text: str, *, who: str) -> Note:
    """A note as of now."""
    return Note(flag, plain_text(text)[:MAX_TEXT], who, datetime.now(UTC).isoformat(timespec="seconds"))


def _read(info: objects.ObjectInfo) -> Note | None:
    data = read_version(info)
    try:
        return None if data is None else _note(json.loads(data))
    except (ValueError, AttributeError, NotFoundError):
        return None


def _note(record: dict[str, Any]) -> Note:
    """What a record says, as far as it is a note."""
    flag, text, who, when = (str(record.get(name) or "") for name in ("flag", "text", "who", "when"))
    return Note(flag if flag in FLAGS else "", plain_text(text)[:MAX_TEXT], who[:200], when[:40])
