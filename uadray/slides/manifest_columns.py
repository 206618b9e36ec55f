"""The headings of a manifest: which of them are columns of `schemas.SLIDES`.

A heading is taken for a column where only case, blanks, hyphens or underscores differ. A heading that looks like a
misspelt column is refused, because a label, a patient or a pixel size would otherwise be lost without notice. All other
headings are named in one warning.
"""

import difflib
import logging
import re
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache

from uadray.errors import InputError
from uadray.schemas import SLIDES

log = logging.getLogger(__name__)

REQUIRED = ("slide_id", "uri")

_LOOKS_LIKE = {"mpp": 0.65, "patient_id": 0.75, "label": 0.75}
_LOOKS_LIKE_OTHERS = 0.78
"""From this likeness on (`difflib`) a heading is taken for a misspelt column: `ppm` for `mpp` (0.67), but not `size`
for `site` (0.75). The limit is lower for pixel sizes, patients and labels, because they change what is computed."""


def _plain(heading: str) -> str:
    """A heading without blanks, hyphens, underscores, case and byte order mark.

    >>> _plain("\ufeffPatient-ID "), _plain("slide id")
    ('patientid', 'slideid')
    """
    return re.sub(r"[\s_\-\ufeff]", "", heading).casefold()


_PLAIN = {_plain(name): name for name in SLIDES.names}


def is_known(heading: str) -> bool:
    """Tell whether a heading is one of `SLIDES`, as `known_columns` understands it."""
    return _plain(heading) in _PLAIN


def known_columns(header: list[str], uri: str) -> dict[str, int]:
    """Positions of the known columns, in the order of `SLIDES`.

    Raises:
        InputError: a required column is missing, a column is there twice, or a heading looks like a misspelt column.
    """
    places: dict[str, list[int]] = defaultdict(list)
    unknown: list[str] = []
    for place, heading in enumerate(header):
        if _plain(heading) in _PLAIN:
            places[_PLAIN[_plain(heading)]].append(place)
        elif heading:
            unknown.append(heading)
    for column in REQUIRED:
        if column not in places:
            near = {name.lower(): name for name in header}
            alike = difflib.get_close_matches(column, near, n=1, cutoff=0.5) or [n for n in near if n in column and n]
            hint = f"; rename {near[alike[0]]!r}?" if alike and len(header) > 1 else ""
            raise InputError(
                f"{uri}: column {column!r} is missing; found {', '.join(map(repr, header[:50]))[:1000]}{hint}"
            )
    for column, its_places in places.items():
        if len(its_places) > 1:
            named = ", ".join(repr(header[place]) for place in its_places[:5])
            raise InputError(f"{uri}: column {column!r} is there {len(its_places)} times: {named}; keep one")
    for heading in unknown[:1000]:
        meant = _misspelt(heading, [name for name in SLIDES.names if name not in places])
        if meant is not None:
            raise InputError(
                f"{uri}: column {heading[:100]!r} looks like {meant!r}, which is missing; rename it, to something else "
                "if that is not meant"
            )
    if unknown:
        _warn_of_unknown(uri, tuple(unknown))
    return {column: places[column][0] for column in SLIDES.names if column in places}


def _misspelt(heading: str, absent: Iterable[str]) -> str | None:
    """The absent column that a heading looks like; None where it looks like none."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", heading)
    for column in absent:
        if column in _LOOKS_LIKE and column in map(str.casefold, words):  # slide_label, SlideLabel, mpp_x
            return column
        likeness = difflib.SequenceMatcher(None, _plain(heading)[:100], _plain(column)).ratio()
        if likeness >= _LOOKS_LIKE.get(column, _LOOKS_LIKE_OTHERS):
            return column
    return None


@lru_cache(maxsize=100)
def _warn_of_unknown(uri: str, unknown: tuple[str, ...]) -> None:
    """Warn of headings that are not read, once a process: some commands read a manifest twice."""
    named = ", ".join(repr(name[:100]) for name in unknown[:20]) + (", ..." if len(unknown) > 20 else "")
    log.warning("%s: %d columns are not read: %s", uri, len(unknown), named)
