"""Splits by patient: no patient is in two splits, and no patient changes splits when slides are added.

A hash of seed and patient id decides a patient's split; what else is in the manifest does not matter. So slides that
are added never move a patient, nor does a patient move who comes back on another site's scanner. The price is that the
shares hold only on average, in the whole manifest as in each site and scanner: a stratum of twenty patients may get no
calibration slide. A rule that looks at one patient alone cannot do better, and a rule that looks at others moves them:

- `stratify_by` reports the shares in each stratum, and warns where one is empty or further off than chance explains;
- with `even`, patients are dealt out instead, stratum by stratum, each to the split that lacks most there, which keeps
  the shares within one patient. The manifest is then the memory: patients whose slides have a split keep it, so slides
  that are added move no patient as long as they are added to the manifest that was written last.
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

MAX_DEVIATIONS = 4.0
"""A stratum's share is warned of beyond so many standard deviations of the binomial distribution: chance alone goes so
far once in 16,000 strata."""


def parse_fractions(text: str) -> dict[str, float]:
    """Shares by name of the split.

    >>> parse_fractions("train=0.7,test=0.3")
    {'train': 0.7, 'test': 0.3}

    Raises:
        InputError: something else than a number stands behind an equals sign.
    """
    try:
        return {name: float(share) for name, _, share in (part.partition("=") for part in text.split(","))}
    except ValueError:
        raise InputError(f"--fractions {text}: expected name=share,..., like train=0.7,test=0.3") from None


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
    without_patient = sum(row.patient_id is None for row in rows)
    if without_patient:
        text = "%d of %d slides have no patient_id: each is taken for a patient of its own"
        log.warning(text, without_patient, len(rows))
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
    split_of_slide = split(rows, fractions, seed=seed, stratify_by=stratify_by, even=even)
    write_manifest([replace(row, split=split_of_slide[row.slide_id]) for row in rows], out)
    patients = _patients(rows)
    split_of_patient = {patient: split_of_slide[slides[0].slide_id] for patient, slides in patients.items()}
    by_slides, by_patients = Counter(split_of_slide.values()), Counter(split_of_patient.values())
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
            counts[_stratum(slides, stratify_by)][split_of_patient[patient]] += 1
        summary["strata"] = {stratum: {name: counts[stratum][name] for name in fractions} for stratum in sorted(counts)}
    return summary


def _check(fractions: Mapping[str, float], stratify_by: Sequence[str]) -> None:
    """Refuse fractions that are no shares of one whole, and columns that are not in `COLUMNS`."""
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
    """The stratum of a patient: the commonest values among the slides; of equally common ones the first by name."""
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
    """Each patient's split by the hash alone: the shares lie side by side on [0, 1), in the order of their names."""
    names = sorted(name for name, share in fractions.items() if share > 0)
    ends = [sum(fractions[name] for name in names[: i + 1]) for i in range(len(names) - 1)]
    return {patient: names[sum(_place(patient, seed) >= end for end in ends)] for patient in patients}


def _dealt(
    patients: Mapping[tuple[str, str], Sequence[SlideRow]], strata: Mapping[tuple[str, str], str],
    fractions: Mapping[str, float], seed: str,
) -> dict[tuple[str, str], str]:  # fmt: skip
    """Each patient's split. Patients with one keep it; the others, in the hash's order, go where most are lacking."""
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
    """The split that a patient's slides have already; None where they have none."""
    splits = sorted({row.split for row in slides if row.split is not None})
    if len(splits) > 1:
        slide_id = next(row.slide_id for row in slides if row.split == splits[1])
        raise InputError(
            f"slide {slide_id}: its patient has slides in the splits {' and '.join(splits)}; clear one of them"
        )
    if splits and splits[0] not in fractions:
        raise InputError(f"slide {slides[0].slide_id}: its split {splits[0]!r} is not among {', '.join(fractions)}")
    return splits[0] if splits else None


def _warn_of_strata(
    strata: Mapping[tuple[str, str], str], chosen: Mapping[tuple[str, str], str], fractions: Mapping[str, float]
) -> None:
    """Warn of each stratum that has no patient in a split, or a share that chance hardly explains."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for patient, stratum in strata.items():
        counts[stratum][chosen[patient]] += 1
    for stratum, patients_in in sorted(counts.items()):
        n = patients_in.total()
        for name, share in fractions.items():
            deviation = math.sqrt(share * (1 - share) / n)
            is_unlikely = abs(patients_in[name] / n - share) > MAX_DEVIATIONS * deviation
            if share > 0 and (patients_in[name] == 0 or is_unlikely):
                text = "stratum %s: %d of %d patients are %s, expected %.0f"
                log.warning(text, stratum, patients_in[name], n, name, share * n)
