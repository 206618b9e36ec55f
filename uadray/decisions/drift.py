"""Decisions and a calibration -> whether what comes in still looks like the slides that the calibration was made of.

Each group, which is a site and a scanner, and each measure of a slide has a test martingale of its own (`martingale`).
The claim: if the slides of a group are exchangeable with the calibration's, drift is ever called in this group with
probability `delta` at most, however often one looks. The measures share `delta` equally (Bonferroni).

Slides of one patient are alike, and the calibration has one of each patient: of the stream the first that was decided
counts, where the manifest names patients (where it does not, several slides of each raise it without a drift). For the
score an archive with many anomalous slides is a drift, since the calibration has none. `bench drift` has numbers for
both. A measure that is null is left out; so is a slide that was not scored, as those of the calibration were, one that
was used for training or calibration, and one that another calibration decided. Since no slide is left out for how it
compares with others, the claim holds for those that are left.

The order of the slides is that in which they were decided. If a slide is decided anew it takes its new place.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from uadray.decisions.conformal import MAX_NAME, Calibration, NormalSlide
from uadray.decisions.martingale import change, evidence, p_values
from uadray.decisions.slide_measures import MEASURES

Numbers = npt.NDArray[np.float64]

DELTA = 0.01
"""Probability that drift is ever called in a group whose slides are as the calibration's."""

OWN_REFERENCE = 20
"""With so many calibration slides a group is compared with its own, else with all of them."""

MAX_GROUPS = 50
"""The groups that come first are told apart, later ones are `OTHER` together."""

UNKNOWN = "unknown"
"""Site or scanner of a slide whose manifest does not say."""

OTHER = ("other", "other")


@dataclass(frozen=True)
class GroupDrift:
    """The slides of one site and scanner against the calibration's.

    Attributes:
        site: as in the manifest, or `unknown`, or `other`.
        scanner: likewise.
        n_slides: slides of the stream, one a patient.
        n_normals: calibration slides that they are compared with.
        reference: whether these are of the same site and scanner, or all.
        evidence: log10 of the test martingale by measure, its highest so far. A measure that no slide of the stream or
            of the calibration has is not there.
        limit: drift is called where the evidence of a measure reaches it.
        detected_at: with which slide of the group it was, counted from 1; None where it never did.
        measure: the measure that reached it first.
        since: the slide, counted from 1, with which the change seems to have begun, as it looked at `detected_at`.
        direction: where this measure went.
        medians: of this measure: of the calibration's slides, and of those from `since` to `detected_at`.
        missing: how many slides of the stream lack each measure.
        n_alike: further slides of the same patients, which do not count.
    """

    site: str
    scanner: str
    n_slides: int
    n_normals: int
    reference: Literal["group", "pool"]
    evidence: dict[str, float]
    limit: float
    detected_at: int | None
    measure: str | None
    since: int | None = None
    direction: Literal["higher", "lower"] | None = None
    medians: tuple[float, float] | None = None
    missing: dict[str, int] = field(default_factory=dict)
    n_alike: int = 0


@dataclass(frozen=True)
class _Found:
    """Where one measure reached the limit: with which slide of the group, since which, and how."""

    measure: str
    detected_at: int
    since: int
    direction: Literal["higher", "lower"]
    medians: tuple[float, float]


def drift(decisions: pa.Table, calibration: Calibration, *, delta: float = DELTA) -> list[GroupDrift]:
    """Every group of the stream against the calibration, by site and scanner.

    Args:
        decisions: rows of `SLIDE_DECISIONS` of one bundle, in any order; older ones may lack columns.
        calibration: that of the bundle.
        delta: probability of ever calling drift in a group that has none.
    """
    stream = _ordered(decisions, calibration.id)
    numbers = {measure: _column(stream, measure) for measure in MEASURES}
    ties = _ties(stream["slide_id"].to_pylist(), calibration.id)
    is_first = first_of_patients(stream)
    places: dict[tuple[str, str], list[int]] = {}
    for place, name in enumerate(group_names(stream)):
        places.setdefault(name, []).append(place)
    groups = []
    for name, all_of_them in sorted(places.items()):
        at = [place for place in all_of_them if is_first[place]]
        here = {measure: column[at] for measure, column in numbers.items()}
        group = _group_drift(name, here, ties[at], calibration.normals, delta)
        groups.append(replace(group, n_alike=len(all_of_them) - len(at)))
    return groups


def group_names(decisions: pa.Table) -> list[tuple[str, str]]:
    """Site and scanner of each row, in which those beyond the first `MAX_GROUPS` are `OTHER`; names are cut short."""
    sites, scanners = ([text[:MAX_NAME] for text in _strings(decisions, name)] for name in ("site", "scanner"))
    known: set[tuple[str, str]] = set()
    names = []
    for name in zip(sites, scanners, strict=True):
        if len(known) < MAX_GROUPS:
            known.add(name)
        names.append(name if name in known else OTHER)
    return names


def first_of_patients(decisions: pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows are the first of their patient in their group (`group_names`), [n]; who is not named is one alone."""
    seen: set[tuple[tuple[str, str], str]] = set()
    first = np.ones(len(decisions), np.bool_)
    for place, name in enumerate(zip(group_names(decisions), _strings(decisions, "patient", ""), strict=True)):
        first[place] = not name[1] or name not in seen
        seen.add(name)
    return first


def in_words(group: GroupDrift) -> str:
    """What drifted and what to do, in a line for people.

    >>> in_words(GroupDrift("X", "Y", 90, 60, "group", {"green": 3.1}, 2.7, 31, "green", 23, "lower", (0.6, 0.5)))
    "site X, scanner Y: green lower than the calibration's since slide 23 of 90 (median 0.5, there 0.6); calibrate anew"
    """
    name = f"site {_printable(group.site)}, scanner {_printable(group.scanner)}"
    if not group.evidence:
        return f"{name}: cannot be told, as calibration or slides lack the measures; calibrate anew"
    if group.measure is None or group.medians is None:
        return f"{name}: {group.n_slides} slides like the calibration's"
    normal, now = group.medians
    measure = group.measure.replace("_", " ")
    few = "" if group.reference == "group" else f", which has fewer than {OWN_REFERENCE} slides of this group"
    advice = "calibrate anew"
    if (group.measure, group.direction) == ("tile_score_median", "higher"):
        advice = "look at the slides, and calibrate anew unless many of them are abnormal"
    return (
        f"{name}: {measure} {group.direction} than the calibration's since slide {group.since} of {group.n_slides} "
        f"(median {now:.3g}, there {normal:.3g}{few}); {advice}"
    )


def _group_drift(
    name: tuple[str, str], numbers: dict[str, Numbers], ties: Numbers, normals: Sequence[NormalSlide], delta: float
) -> GroupDrift:
    """One group; of each measure [n] numbers, NaN where it is missing, and [n, measures] ties."""
    own = [normal for normal in normals if _name_of(normal) == name and name != OTHER]
    is_own = len(own) >= OWN_REFERENCE
    reference = own if is_own else normals
    limit = math.log10(len(MEASURES) / delta)
    highest: dict[str, float] = {}
    found: list[_Found] = []
    for column, (measure, stream) in enumerate(numbers.items()):
        known = _finite([getattr(normal, measure) for normal in reference])
        at = np.flatnonzero(np.isfinite(stream))
        if not len(known) or not len(at):
            continue
        p = p_values(stream[at], known, ties[at, column])
        path = evidence(p, len(known))
        highest[measure] = max(0.0, float(path.max()))
        reached = np.flatnonzero(path >= limit)
        if len(reached):
            found.append(_found(measure, stream, known, at, p[: reached[0] + 1]))
    first = min(found, key=lambda each: each.detected_at, default=None)
    return GroupDrift(
        *name, n_slides=len(ties), n_normals=len(reference), reference="group" if is_own else "pool",
        evidence=highest, limit=limit, missing={m: int((~np.isfinite(x)).sum()) for m, x in numbers.items()},
        **(vars(first) if first else {"detected_at": None, "measure": None}),
    )  # fmt: skip


def _found(measure: str, stream: Numbers, known: Numbers, at: npt.NDArray[np.int64], p: Numbers) -> _Found:
    """What changed, as it looks with the p-value that reached the limit, which is the last; `at` are their slides."""
    what = change(p, len(known))
    medians = float(np.median(known)), float(np.median(stream[at[what.start : len(p)]]))
    return _Found(measure, int(at[len(p) - 1]) + 1, int(at[what.start]) + 1, what.direction, medians)


def _ordered(decisions: pa.Table, calibration_id: str) -> pa.Table:
    """The rows that count, in the order in which they were decided; those of unknown time first."""
    states, notes = decisions["state"].to_pylist(), _strings(decisions, "note", "")
    calibrations = _strings(decisions, "calibration_id", calibration_id)
    times, ids = _strings(decisions, "decided_at", ""), decisions["slide_id"].to_pylist()
    counts = [
        state == "scored" and not note and calibration == calibration_id
        for state, note, calibration in zip(states, notes, calibrations, strict=True)
    ]
    rows = sorted(np.flatnonzero(counts).tolist(), key=lambda i: (times[i], ids[i]))
    return decisions.take(pa.array(rows, pa.int64()))


def _strings(table: pa.Table, name: str, null: str = UNKNOWN) -> list[str]:
    """A column of text, `null` where it says nothing or is not there."""
    if name not in table.column_names:
        return [null] * len(table)
    return [value or null for value in table[name].to_pylist()]


def _column(table: pa.Table, name: str) -> Numbers:
    """A column of numbers, NaN where there is none."""
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    return _floats(table[name].to_pylist())


def _floats(values: Sequence[float | None]) -> Numbers:
    return np.array([math.nan if value is None else value for value in values], np.float64)


def _finite(values: Sequence[float | None]) -> Numbers:
    numbers = _floats(values)
    return numbers[np.isfinite(numbers)]


def _name_of(normal: NormalSlide) -> tuple[str, str]:
    return normal.site or UNKNOWN, normal.scanner or UNKNOWN


def _ties(slide_ids: Sequence[str], calibration_id: str) -> Numbers:
    """[n, measures] Uniform on (0, 1), by the ids alone: the same each time, and independent of the measures."""
    key, size = hashlib.sha256(calibration_id.encode()).digest(), 8 * len(MEASURES)
    digests = [hashlib.blake2b(slide_id.encode(), key=key, digest_size=size).digest() for slide_id in slide_ids]
    bits = np.frombuffer(b"".join(digests), "<u8").reshape(len(slide_ids), len(MEASURES))
    return np.asarray(((bits >> np.uint64(12)) + 0.5) / 2.0**52)


def _printable(text: str) -> str:
    """At most 60 characters of a manifest's text, as a log may have them."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:60])
