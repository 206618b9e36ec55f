"""Which screenings lie in an endpoint's folder, of which bundles, and what they have decided. Nothing here writes.

    <out>/run.json ...                        the screening `main`, if the folder itself is one
    <out>/screenings/<fingerprint>/run.json   the others

A folder that `uadray screen` has made is one with a single screening. What is decided is read anew when it is asked
for, every two seconds at most, and of decisions that are known by their etag nothing is read again.
"""

import json
import math
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from uadray.decisions.conformal import Calibration, threshold
from uadray.detectors.description import BundleDescription
from uadray.errors import InputError, NotFoundError, UadrayError
from uadray.screening import decision_segments, leases
from uadray.screening.run_record import RUN
from uadray.screening.slide_outputs import decisions_of
from uadray.serving.jobs.folders import FOLDER, MAIN, screening_folder
from uadray.serving.views.bounded_cache import BoundedCache
from uadray.serving.views.slide_query import SlideTable
from uadray.slides.manifest_checks import why_unusable
from uadray.storage import objects
from uadray.tiles.spec import TileSpec

FRESH_S = 2.0
"""For so long what was read is not looked at again."""

PATIENCE = 10
"""Nor for so many times as long as the last look took: a listing of a million slides takes a while."""

WAIT_S = 1.0
"""For so long a request waits for news of what it knows already, before it takes what was there."""

READERS = 4

KEPT_SLIDES, KEPT_TABLES = 2000, 16

_NAME = re.compile(r"[0-9a-f]{8,64}\Z")
_MAX_RUN_BYTES = 2**20


class Registered(Protocol):
    """A bundle that the endpoint has: what is read of it here."""

    @property
    def description(self) -> BundleDescription:
        """Its `bundle.json`."""
        ...

    @property
    def calibration(self) -> Calibration | None:
        """What its decisions rest on."""
        ...


@dataclass(frozen=True)
class UsedBundle:
    """A bundle of a screening, as its `run.json` names it.

    Attributes:
        folder: of its results below the screening's; empty for the only one.
        id: of the bundle.
        name: for people.
        detector: which kind.
        calibration_id: of the calibration that its decisions rest on.
    """

    folder: str
    id: str
    name: str
    detector: str
    calibration_id: str


@dataclass(frozen=True)
class Screening:
    """A screening.

    Attributes:
        name: `main`, or its fingerprint.
        out: its folder.
        started: when, for people.
        bundles: it decides with.
        tiles: how its tiles are cut; None where this version cannot tell.
        mpp: of tiles, in micrometres per pixel.
        tile_px: side of a tile.
    """

    name: str
    out: str
    started: str
    bundles: tuple[UsedBundle, ...]
    tiles: TileSpec | None
    mpp: float | None
    tile_px: int | None

    def bundle(self, name: str | None) -> UsedBundle:
        """The bundle with this folder, name or id; the first where none is named.

        Raises:
            NotFoundError: there is none.
        """
        for each in self.bundles:
            if not name or name in (each.folder, each.name, each.id):
                return each
        raise NotFoundError(f"screening {self.name} has no bundle {name!r:.80}; it has {_listed(self.bundles)}")

    def path(self, bundle: UsedBundle, *names: str) -> str:
        """Where something of a bundle lies."""
        return objects.join(self.out, *filter(None, (bundle.folder,)), *names)


class Screenings:
    """The screenings of an endpoint's folder. Safe to use from several threads.

    Args:
        out: the folder.
        registered: the bundles that the endpoint has.
        fresh_s: see `FRESH_S`.
    """

    def __init__(self, out: str, registered: Callable[[], Sequence[Registered]], *, fresh_s: float = FRESH_S) -> None:
        self._out, self._registered, self._fresh_s = out, registered, fresh_s
        self._known: dict[str, Screening] = {}
        self._reader = ThreadPoolExecutor(READERS, thread_name_prefix="uadray-decided")
        self._tables = BoundedCache[str, "_Kept"](most=KEPT_TABLES)
        self._decisions = BoundedCache[tuple[str, str], tuple[float, str, list[dict[str, Any]]]](most=KEPT_SLIDES)

    def all(self) -> list[Screening]:
        """All of them: `main` first, then the newest."""
        names = [name for name in objects.list_folders(objects.join(self._out, FOLDER)) if _NAME.match(name)]
        found = [each for each in map(self._find, [MAIN, *names]) if each is not None]
        return sorted(found, key=lambda each: (each.name != MAIN, [-ord(letter) for letter in each.started]))

    def get(self, name: str) -> Screening:
        """One of them.

        Raises:
            NotFoundError: there is none with this name.
        """
        screening = self._find(name) if name == MAIN or _NAME.match(name) else None
        if screening is None:
            raise NotFoundError(f"there is no screening {name!r:.80}")
        return screening

    def slides(self, screening: Screening) -> SlideTable:
        """What it has decided so far.

        A store that does not answer, or takes long, is waited for at the first time alone: then the last answer holds.
        """
        kept = self._tables.get(screening.name, _Kept)
        with kept.lock:
            if kept.table is not None and time.monotonic() < kept.fresh_until:
                return kept.table
            if kept.reading is None:
                kept.reading = self._reader.submit(self._read, kept, screening.out)
            reading, before = kept.reading, kept.table
        try:
            return reading.result(timeout=None if before is None else WAIT_S)
        except (UadrayError, TimeoutError):
            if before is None:
                raise
            return before

    def _read(self, kept: "_Kept", out: str) -> SlideTable:
        """What is decided by now, which is kept: the same object where nothing has changed."""
        began = time.monotonic()
        try:
            kept.table = _read_again(out, kept.table)
            return kept.table
        finally:
            took = time.monotonic() - began
            with kept.lock:
                kept.fresh_until = time.monotonic() + max(self._fresh_s, PATIENCE * took)
                kept.reading = None

    def decisions(self, screening: Screening, slide_id: str) -> tuple[str, list[dict[str, Any]]]:
        """The etag of a slide's decision, and the records of all bundles, each with `bundle`, its folder.

        Raises:
            NotFoundError: the slide is not decided, or this is no slide id.
        """
        missing = NotFoundError(f"screening {screening.name} has no decision about this slide")
        if not slide_id or why_unusable(slide_id):
            raise missing
        key, now = (screening.name, slide_id), time.monotonic()
        kept = self._decisions.peek(key)
        if kept is None or now >= kept[0]:
            found = leases.read_with_etag(leases.decision_uri(screening.out, slide_id))
            if found is None:
                raise missing
            records = [record | {"bundle": record.get("bundle") or ""} for record in decisions_of(found[1])]
            kept = (now + self._fresh_s, found[0], records)
            self._decisions.put(key, kept)
        return kept[1], kept[2]

    def registered(self, bundle: UsedBundle) -> Registered | None:
        """The endpoint's bundle with the id of this one, if it still has it: one with its calibration first."""
        same = [each for each in self._registered() if each.description.id == bundle.id]
        calibrated = [each for each in same if _is_of(each.calibration, bundle)]
        return next(iter([*calibrated, *same]), None)

    def calibration(self, bundle: UsedBundle) -> Calibration | None:
        """The calibration that a bundle's decisions rest on, if the endpoint still has it."""
        registered = self.registered(bundle)
        known = registered.calibration if registered is not None else None
        return known if _is_of(known, bundle) else None

    def figures(self, screening: Screening, bundle: UsedBundle) -> dict[str, Any]:
        """The figures of a bundle's calibration; of one that is gone, what its decisions say, and null for the rest."""
        known = self.calibration(bundle)
        if known is not None:
            return calibration_figures(known)
        said = self.slides(screening).said(bundle.folder, ("alpha", "threshold"))
        return dict.fromkeys(_FIGURES) | {"id": bundle.calibration_id, "tile_quantiles": []} | said

    def _find(self, name: str) -> Screening | None:
        if name not in self._known:
            out = screening_folder(self._out, name)
            try:
                record = json.loads(objects.read_bytes(objects.join(out, RUN), max_bytes=_MAX_RUN_BYTES))
                self._known[name] = _screening(name, out, record)
            except (NotFoundError, ValueError, KeyError, TypeError, AttributeError):  # none, or not one of ours
                return None
        return self._known[name]


class _Kept:
    """The slides of a screening as they were at the last look."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.table: SlideTable | None = None
        self.reading: Future[SlideTable] | None = None
        self.fresh_until = 0.0


_FIGURES = (
    "id", "alpha", "n", "threshold", "tile_median", "tile_p99", "tile_high", "tile_quantiles", "cell_median",
    "cell_high",
)  # fmt: skip


def calibration_figures(calibration: Calibration) -> dict[str, Any]:
    """What people are told of a calibration: no slide's mark, and of scores only how many there are."""
    limit = threshold(calibration)
    own = {"n": len(calibration.scores), "threshold": limit if math.isfinite(limit) else None}
    return {name: own[name] if name in own else getattr(calibration, name) for name in _FIGURES}


def _is_of(calibration: Calibration | None, bundle: UsedBundle) -> bool:
    return calibration is not None and calibration.id == bundle.calibration_id


def _read_again(out: str, before: SlideTable | None) -> SlideTable:
    """What is decided by now."""
    decided = decision_segments.read_decisions(out, known=before.table if before else None)
    is_same = before is not None and not decided.segments and not decided.unsegmented
    if before is not None and is_same and len(decided.table) == len(before.table):
        return before
    return SlideTable(decided.table)


def _screening(name: str, out: str, record: dict[str, Any]) -> Screening:
    """What a `run.json` says."""
    several = record.get("bundles") or [
        {
            "folder": "",
            "id": record["bundle_id"],
            "name": record["bundle"],
            "detector": record["detector"],
            "calibration": record["calibration_id"],
        }
    ]
    bundles = tuple(
        UsedBundle(str(b["folder"]), str(b["id"]), str(b["name"]), str(b["detector"]), str(b["calibration"]))
        for b in several
    )
    values = record.get("tiles") or {}
    return Screening(
        name, out, str(record.get("started", "")), bundles, _tile_spec(values), values.get("mpp"), values.get("tile_px")
    )


def _tile_spec(values: dict[str, Any]) -> TileSpec | None:
    try:
        return TileSpec.model_validate(values)
    except (InputError, ValueError):  # of another version
        return None


def _listed(bundles: Sequence[UsedBundle]) -> str:
    return ", ".join(each.folder or each.name for each in bundles)
