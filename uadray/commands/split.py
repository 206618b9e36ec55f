"""Splits by patient: no patient in two of them, and nobody moves when slides are added.

A patient goes where a hash of seed and patient id points; what else is in the manifest does not matter. So additions
never move anybody, and a patient stays in place who comes back on another site's scanner. The price: the shares hold in
expectation, as in throwing dice, in all and in each site and scanner alike; a stratum of twenty patients may get no
calibration slide. No rule that looks at one patient alone can do better, and one that looks at others moves them:

- `stratify_by` says what the shares are in each stratum, and warns where one is out of what dice would give or empty;
- with `even`, patients are dealt out instead, stratum by stratum, each to the split that lacks most there: within one
  patient of the shares. Then the manifest is the memory: patients whose slides have a split keep it, so additions move
  nobody as long as they are made to the manifest that was written last.
"""

import hashlib
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from uadray.errors import InputError
from uadray.slides.identity import warn_of_same_files
from uadray.slides.manifest import SlideRow, read_manifest, write_manifest

log = logging.getLogger(__name__)

FRACTIONS = {"train": 0.7, "calib": 0.15, "test": 0.15}
COLUMNS = ("site", "scanner", "stain", "label")
"""What may be stratified by."""

DICE = 4.0
"""Standard deviations of the binomial distribution beyond which a stratum's share is warned of: once in 16,000."""


def split(
    rows: Sequence[SlideRow], fractions: Mapping[str, float] = FRACTIONS, *, seed: str = "uadray",
    stratify_by: Sequence[str] = (), even: bool = False,
) -> dict[str, str]:  # fmt: skip
    """Return slide id -> split. A slide without a patient is a patient of its own, with a warning that counts these.

    Args:
        rows: the manifest. Their `split` counts with `even` alone.
        fractions: shares of the patients, in any order; they add up to 1.
        seed: another one gives another split.
        stratify_by: names of `COLUMNS`.
        even: deal patients out instead of hashing them.

    Raises:
        InputError: fractions or columns that cannot be, or with `even` a patient who is in two splits already.
    """
    _check(fractions, stratify_by)
    patients = _patients(rows)
    nobodys = sum(row.patient_id is None for row in rows)
    if nobodys:
        log.warning("%d of %d slides have no patient_id: each is taken for a patient of its own", nobodys, len(rows))
    strata = {patient: _stratum(slides, stratify_by) for patient, slides in patients.items()}
    chosen = _dealt(patients, strata, fractions, seed) if even else _hashed(patients, fractions, seed)
    if stratify_by:
        _warn_of_strata(strata, chosen, fractions)
    return {row.slide_id: chosen[patient] for patient, slides in patients.items() for row in slides}


def split_manifest(
    uri: str, out: str, *, fractions: Mapping[str, float] = FRACTIONS, seed: str = "uadray",
    stratify_by: Sequence[str] = (), even: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Read a manifest and write it with its `split` column; returns what went where.

    Returns:
        `manifest`, `slides`, `patients`, `without_patient_id`, `splits` (slides and patients of each) and, for a
        stratified split, `strata` (patients of each split, by the values of its columns).

    Raises:
        InputError: see `split`; or `out` is the manifest itself, whose other columns would be lost.
    """
    if uri == out:
        raise InputError(f"{out}: is the manifest that is split; give another file, other columns are not carried over")
    rows = read_manifest(uri)
    warn_of_same_files(rows)
    found = split(rows, fractions, seed=seed, stratify_by=stratify_by, even=even)
    write_manifest([replace(row, split=found[row.slide_id]) for row in rows], out)
    patients = _patients(rows)
    where = {patient: found[slides[0].slide_id] for patient, slides in patients.items()}
    by_slides, by_patients = Counter(found.values()), Counter(where.values())
    summary: dict[str, Any] = {
        "manifest": out,
        "slides": len(rows),
        "patients": len(patients),
        "without_patient_id": sum(row.patient_id is None for row in rows),
        "splits": {name: {"slides": by_slides[name], "patients": by_patients[name]} for name in fractions},
    }
    if stratify_by:
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for patient, slides in patients.items():
            counts[_stratum(slides, stratify_by)][where[patient]] += 1
        summary["strata"] = {stratum: {name: counts[stratum][name] for name in fractions} for stratum in sorted(counts)}
    return summary


def _check(fractions: Mapping[str, float], stratify_by: Sequence[str]) -> None:
    if not fractions or not all(0 <= share <= 1 for share in fractions.values()) or "" in fractions:
        raise InputError(f"fractions {dict(fractions)}: expected named shares between 0 and 1")
    if not math.isclose(sum(fractions.values()), 1, abs_tol=1e-9):
        raise InputError(f"fractions {dict(fractions)}: add up to {sum(fractions.values()):g}, expected 1")
    for column in stratify_by:
        if column not in COLUMNS:
            raise InputError(f"cannot stratify by {column!r}; expected {', '.join(COLUMNS)}")


def _patients(rows: Sequence[SlideRow]) -> dict[tuple[str, str], list[SlideRow]]:
    """Slides by patient."""
    patients: dict[tuple[str, str], list[SlideRow]] = defaultdict(list)
    for row in rows:
        patients[row.patient].append(row)
    return patients


def _stratum(slides: Sequence[SlideRow], columns: Sequence[str]) -> str:
    """What a patient counts as: the commonest values among the slides, of equally common ones the first by name."""
    values = Counter(" | ".join(_value(row, column) for column in columns) for row in slides)
    return min(values, key=lambda value: (-values[value], value))


def _value(row: SlideRow, column: str) -> str:
    value: str = getattr(row, column) or "-"
    return value.casefold() if column == "label" else value


def _place(patient: tuple[str, str], seed: str) -> float:
    """A number in [0, 1) that follows from seed and patient."""
    digest = hashlib.sha256("\0".join((seed, *patient)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _hashed(
    patients: Mapping[tuple[str, str], Sequence[SlideRow]], fractions: Mapping[str, float], seed: str
) -> dict[tuple[str, str], str]:
    names = sorted(name for name, share in fractions.items() if share > 0)
    ends = [sum(fractions[name] for name in names[: i + 1]) for i in range(len(names) - 1)]
    return {patient: names[sum(_place(patient, seed) >= end for end in ends)] for patient in patients}


def _dealt(
    patients: Mapping[tuple[str, str], Sequence[SlideRow]], strata: Mapping[tuple[str, str], str],
    fractions: Mapping[str, float], seed: str,
) -> dict[tuple[str, str], str]:  # fmt: skip
    """Those with a split keep it; the others go in the hash's order, each to what is furthest below its share."""
    chosen = {patient: kept for patient, slides in patients.items() if (kept := _kept(slides, fractions)) is not None}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for patient, name in chosen.items():
        counts[strata[patient]][name] += 1
    for patient in sorted(patients.keys() - chosen.keys(), key=lambda patient: (_place(patient, seed), patient)):
        stratum = counts[strata[patient]]
        n = stratum.total() + 1
        lacking = {name: share * n - stratum[name] for name, share in fractions.items() if share > 0}
        chosen[patient] = max(sorted(lacking), key=lambda name: lacking[name])
        stratum[chosen[patient]] += 1
    return chosen


def _kept(slides: Sequence[SlideRow], fractions: Mapping[str, float]) -> str | None:
    found = sorted({row.split for row in slides if row.split is not None})
    if len(found) > 1:
        which = next(row.slide_id for row in slides if row.split == found[1])
        raise InputError(
            f"slide {which}: its patient has slides in the splits {' and '.join(found)}; clear one of them"
        )
    if found and found[0] not in fractions:
        raise InputError(f"slide {slides[0].slide_id}: its split {found[0]!r} is not among {', '.join(fractions)}")
    return found[0] if found else None


def _warn_of_strata(
    strata: Mapping[tuple[str, str], str], chosen: Mapping[tuple[str, str], str], fractions: Mapping[str, float]
) -> None:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for patient, stratum in strata.items():
        counts[stratum][chosen[patient]] += 1
    for stratum, found in sorted(counts.items()):
        n = found.total()
        for name, share in fractions.items():
            spread = math.sqrt(share * (1 - share) / n)
            if share > 0 and (found[name] == 0 or abs(found[name] / n - share) > DICE * spread):
                log.warning(
                    "stratum %s: %d of %d patients are %s, expected %.0f", stratum, found[name], n, name, share * n
                )
