"""Whether a calibration holds for a site and scanner, as far as one process knows while it decides slides.

`decisions.parquet` says it of all slides when they are decided (`archive_columns`). A decision is written long before;
it says what was known at that moment, from the decisions that were there when the process began or renewed the files
for people, and its own since. What others have decided meanwhile it does not know. It is looked at again each time
twice as many slides are known, so that looking takes a small part of the time however many there are.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from uadray.decisions.conformal import MAX_NAME
from uadray.decisions.drift import UNKNOWN
from uadray.decisions.slide_measures import MEASURES
from uadray.decisions.validity import JUDGED, holding
from uadray.schemas import SLIDE_DECISIONS
from uadray.screening.bundles import ScreeningBundle

MOST = 20_000
"""The newest slides that are looked at: 2 s."""

_READ = pa.schema(
    [
        SLIDE_DECISIONS.field(name)
        for name in (
            "slide_id", "state", "note", "site", "scanner", "patient", "decided_at", "p_value", "calibration_id",
            "calibration_group_slides", *MEASURES,
        )
    ]
)  # fmt: skip


class WatchedGroups:
    """What is known of each bundle's groups. Several threads may use it."""

    def __init__(self, bundles: Sequence[ScreeningBundle]) -> None:
        self._bundles = tuple(bundles)
        self._rows: list[list[dict[str, Any]]] = [[] for _ in bundles]
        self._holds: list[dict[tuple[str, str], bool | None]] = [{} for _ in bundles]
        self._next, self._lock = JUDGED, threading.Lock()

    def begin(self, table: pa.Table) -> None:
        """Take what is decided, in place of all that was known; columns as of `decision_segments`."""
        rows = []
        for bundle in self._bundles:
            own = table.filter(pc.equal(pc.fill_null(table["bundle"], ""), bundle.folder)).select(_READ.names)
            rows.append(own.sort_by("decided_at").slice(max(0, len(own) - MOST)).to_pylist())
        with self._lock:
            self._rows = rows
            self._look()

    def add(self, decisions: Sequence[Mapping[str, Any]]) -> None:
        """Take a decision of each bundle for one slide, as its record has them."""
        with self._lock:
            for rows, decision in zip(self._rows, decisions, strict=True):
                rows.append({name: decision[name] for name in _READ.names})
            if len(self._rows[0]) >= self._next:
                self._look()

    def holds(self, bundle: int, *, site: str | None, scanner: str | None) -> bool | None:
        """Whether a bundle's calibration holds for a site and scanner; None where it is not known."""
        return self._holds[bundle].get(_name(site, scanner))

    def _look(self) -> None:
        for place, bundle in enumerate(self._bundles):
            rows = self._rows[place] = self._rows[place][-MOST:]
            held = holding(pa.Table.from_pylist(rows, schema=_READ), bundle.calibration) if len(rows) >= JUDGED else []
            names = (_name(row["site"], row["scanner"]) for row in rows)
            self._holds[place] = dict(zip(names, held, strict=False))
        self._next = max(JUDGED, 2 * len(self._rows[0]))


def _name(site: str | None, scanner: str | None) -> tuple[str, str]:
    return (site or UNKNOWN)[:MAX_NAME], (scanner or UNKNOWN)[:MAX_NAME]
