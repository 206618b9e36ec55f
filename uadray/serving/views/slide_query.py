"""Decided slides, sorted, filtered, counted and told page by page. Ten thousand slides take milliseconds.

A cursor holds the place of the last slide that was told, not a number of slides: slides that are decided, or leave the
filter, between two pages neither repeat nor hide others.
"""

import base64
import binascii
import json
import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from uadray.errors import InputError
from uadray.screening.summary import state_of_slide

Sort = Literal["score", "p_value", "slide_id"]
Facet = Literal["decision", "state", "reason", "site", "scanner", "stain"]
FACETS: tuple[Facet, ...] = ("decision", "state", "reason", "site", "scanner", "stain")

NONE = "none"
"""What stands for a value that a slide does not have: in filters, and in counts."""

MAX_PAGE = 500

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SlideQuery:
    """Which slides are asked for, and in which order.

    Attributes:
        bundle: folder of the bundle whose decisions these are.
        sort: by what; slides without a number come last.
        descending: highest first.
        values: for columns of `FACETS`, those that are wanted; a column that is not named may have any.
        flags: of reviewers' notes, those that are wanted; empty takes all.
        text: part of the slide's id, in upper or lower case.
        ranges: least and greatest number, by column (`score`, `p_value`).
        limit: slides on a page.
        cursor: where the page before ended.
    """

    bundle: str = ""
    sort: Sort = "score"
    descending: bool = True
    values: Mapping[Facet, Sequence[str]] = field(default_factory=dict)
    flags: Sequence[str] = ()
    text: str = ""
    ranges: Mapping[Literal["score", "p_value"], tuple[float | None, float | None]] = field(default_factory=dict)
    limit: int = 50
    cursor: str | None = None


@dataclass(frozen=True)
class SlidePage:
    """A page of slides.

    Attributes:
        rows: of `SLIDE_DECISIONS`, with `decision_etag` and `bundle`.
        total: slides that meet the query, on all pages.
        facets: by column, how many slides have each value among those that meet all other parts of the query.
        next_cursor: of the next page; None after the last.
    """

    rows: list[dict[str, Any]]
    total: int
    facets: dict[str, dict[str, int]]
    next_cursor: str | None


class SlideTable:
    """Decided slides of all bundles of a screening.

    Args:
        table: of `decision_segments.read_decisions`.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        folders = np.array([name or "" for name in table["bundle"].to_pylist()], object)
        self._bundles = {
            folder: _Columns(table.take(pa.array(np.flatnonzero(folders == folder))))
            for folder in dict.fromkeys(folders)
        }
        self._nothing = _Columns(table.slice(0, 0))

    def page(self, query: SlideQuery, flags: Mapping[str, str]) -> SlidePage:
        """One page.

        Args:
            query: what is asked for.
            flags: slide id -> flag of the slides that have a note.

        Raises:
            InputError: the cursor is not one of this order.
        """
        columns = self._bundles.get(query.bundle, self._nothing)
        noted = np.array([flags.get(slide_id) or NONE for slide_id in columns.ids], object)
        masks = columns.masks(query) | ({"flag": np.isin(noted, list(query.flags))} if query.flags else {})
        order = columns.order(query.sort, descending=query.descending)
        mask = _all(masks, len(order))
        rest = order[columns.place(query) :] if query.cursor else order
        chosen = rest[mask[rest]]
        shown = chosen[: query.limit]
        more = len(chosen) > len(shown) and len(shown) > 0
        facets: dict[str, dict[str, int]] = {
            name: columns.counts(name, _all(masks, len(order), but=name)) for name in FACETS
        }
        facets["flag"] = dict(Counter(noted[_all(masks, len(order), but="flag")].tolist()))
        return SlidePage(
            rows=columns.table.take(pa.array(shown)).to_pylist(),
            total=int(mask.sum()),
            facets=facets,
            next_cursor=columns.cursor(query, int(shown[-1])) if more else None,
        )

    def said(self, bundle: str, names: Sequence[str]) -> dict[str, Any]:
        """What the first slide with a score says in these columns; nothing where there is none."""
        columns = self._bundles.get(bundle, self._nothing)
        scored = np.flatnonzero(~np.isnan(columns.numbers("score")))
        return {name: columns.table[name][int(scored[0])].as_py() for name in names} if len(scored) else {}

    @cached_property
    def counts(self) -> dict[str, int]:
        """Slides by state, and those that a bundle calls anomalous."""
        states: dict[str, list[str]] = {}
        anomalous = set()
        for slide_id, state, decision in zip(
            *(self.table[name].to_pylist() for name in ("slide_id", "state", "decision")), strict=True
        ):
            states.setdefault(slide_id, []).append(state)
            if decision == "anomalous":
                anomalous.add(slide_id)
        of_slides = Counter(map(state_of_slide, states.values()))
        return {name: of_slides[name] for name in ("scored", "not_assessable", "failed")} | {
            "anomalous": len(anomalous)
        }

    def bundle_counts(self, bundle: str) -> dict[str, int]:
        """How many slides one bundle calls what."""
        columns = self._bundles.get(bundle, self._nothing)
        return columns.counts("decision", np.ones(len(columns.ids), np.bool_))


class _Columns:
    """The slides of one bundle, by column."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.ids: list[str] = table["slide_id"].to_pylist()
        self._sorted_ids = sorted(self.ids)
        self._folded = [slide_id.casefold() for slide_id in self.ids]
        self._codes: dict[str, tuple[list[str], npt.NDArray[np.int64]]] = {}
        self._orders: dict[tuple[Sort, bool], npt.NDArray[np.int64]] = {}

    def numbers(self, name: str) -> npt.NDArray[np.float64]:
        """A column of numbers, NaN where a slide has none."""
        return np.asarray(self.table[name].to_numpy(zero_copy_only=False), np.float64)

    def coded(self, name: str) -> tuple[list[str], npt.NDArray[np.int64]]:
        """The values of a column of texts, and for each slide which one it has."""
        if name not in self._codes:
            values = [value or NONE for value in self.table[name].to_pylist()]
            known = {value: code for code, value in enumerate(dict.fromkeys(values))}
            self._codes[name] = list(known), np.array([known[value] for value in values], np.int64)
        return self._codes[name]

    def masks(self, query: SlideQuery) -> dict[str, Mask]:
        """Which slides meet each part of a query."""
        masks: dict[str, Mask] = {}
        for name, wanted in query.values.items():
            if wanted:
                known, codes = self.coded(name)
                masks[name] = np.isin(codes, [code for code, value in enumerate(known) if value in wanted])
        for column, (least, greatest) in query.ranges.items():
            numbers = self.numbers(column)
            if least is not None:
                masks[f"min_{column}"] = numbers >= least
            if greatest is not None:
                masks[f"max_{column}"] = numbers <= greatest
        if query.text:
            part = query.text.casefold()
            masks["text"] = np.array([part in slide_id for slide_id in self._folded], np.bool_)
        return masks

    def counts(self, name: str, mask: Mask) -> dict[str, int]:
        """How many of these slides have each value of a column, the most frequent first."""
        known, codes = self.coded(name)
        counts = np.bincount(codes[mask], minlength=len(known)).tolist()
        return dict(sorted(((v, n) for v, n in zip(known, counts, strict=True) if n), key=lambda item: -item[1]))

    def order(self, sort: Sort, *, descending: bool) -> npt.NDArray[np.int64]:
        """All slides in an order."""
        if (sort, descending) not in self._orders:
            keys = [self._key(i, sort, descending=descending) for i in range(len(self.ids))]
            self._orders[sort, descending] = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
        return self._orders[sort, descending]

    def cursor(self, query: SlideQuery, row: int) -> str:
        """The cursor of a page that ends with this slide."""
        value = None if query.sort == "slide_id" else _number(self.numbers(query.sort)[row])
        said = json.dumps([query.sort, query.descending, value, self.ids[row]]).encode()
        return base64.urlsafe_b64encode(said).decode().rstrip("=")

    def place(self, query: SlideQuery) -> int:
        """How many slides of the order come before the page that a cursor begins."""
        sort, descending, value, slide_id = _read_cursor(query.cursor or "")
        if (sort, descending) != (query.sort, query.descending):
            raise InputError("this cursor is of another order; ask for the first page again")
        last = _order_key(value, self._rank(slide_id), sort, descending=descending)
        order = self.order(sort, descending=descending)
        return bisect_right(order, last, key=lambda row: self._key(int(row), sort, descending=descending))

    def _key(self, row: int, sort: Sort, *, descending: bool) -> tuple[bool, float, float]:
        value = None if sort == "slide_id" else _number(self._lists[sort][row])
        return _order_key(value, self._ranks[row], sort, descending=descending)

    @cached_property
    def _lists(self) -> dict[str, list[float]]:
        return {name: self.numbers(name).tolist() for name in ("score", "p_value")}

    @cached_property
    def _ranks(self) -> list[float]:
        places = {slide_id: float(place) for place, slide_id in enumerate(self._sorted_ids)}
        return [places[slide_id] for slide_id in self.ids]

    def _rank(self, slide_id: str) -> float:
        """The place of an id among all, between two where it is not there."""
        place = bisect_left(self._sorted_ids, slide_id)
        is_there = place < len(self._sorted_ids) and self._sorted_ids[place] == slide_id
        return place if is_there else place - 0.5


def _order_key(value: float | None, rank: float, sort: Sort, *, descending: bool) -> tuple[bool, float, float]:
    """What slides are sorted by: those without a number last, equal ones by id."""
    if sort == "slide_id":
        return False, -rank if descending else rank, 0.0
    return (True, 0.0, rank) if value is None else (False, -value if descending else value, rank)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _read_cursor(text: str) -> tuple[Sort, bool, float | None, str]:
    try:
        said = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        sort, descending, value, slide_id = said
        is_good = sort in ("score", "p_value", "slide_id") and isinstance(descending, bool)
        is_good &= isinstance(slide_id, str) and (value is None or math.isfinite(value))
    except (binascii.Error, ValueError, TypeError, OverflowError, RecursionError):
        is_good = False
    if not is_good:
        raise InputError("this is no cursor; ask for the first page again")
    return sort, descending, value, slide_id


def _all(masks: Mapping[str, Mask], n: int, *, but: str = "") -> Mask:
    """Which of n slides meet all masks, one left aside."""
    meets = np.ones(n, np.bool_)
    for name, mask in masks.items():
        if name != but:
            meets &= mask
    return meets
