"""Whether the stated false-alarm rate holds: the p-values of each site and scanner against the uniform distribution.

Of normal slides that are like the calibration's, a share of alpha at most has a p-value of alpha at most. How many such
slides may be among m by chance is known exactly: with n calibration slides and k = floor(alpha (n + 1)) their number is
beta-binomial (m; k, n + 1 - k), which counts the chance in the calibration's own slides too (Vovk 2012, "Conditional
validity of inductive conformal predictors", section 3). More than 1 % of that distribution allows is called too many.
Slides that are truly anomalous count among them: in an archive with many of these, too many is no fault of the
calibration.
"""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from uadray.decisions.conformal import MAX_NAME, Calibration
from uadray.decisions.drift import OTHER, UNKNOWN, drift, first_of_patients, group_names

P_EDGES = (0.01, 0.02, 0.05, *(round(0.1 * i, 1) for i in range(1, 11)))
"""Upper ends of the bins of p-values."""

JUDGED = 20
"""With fewer slides nothing good is said of a calibration."""

LEVEL = 0.01
"""Probability that too many slides of a group are called, once, where the rate holds."""


_NEEDED = ("slide_id", "site", "scanner", "patient", "decided_at", "p_value", "calibration_group_slides")


@dataclass(frozen=True)
class GroupValidity:
    """The p-values of one site and scanner.

    Attributes:
        site: as `drift.group_names` has it.
        scanner: likewise.
        n_slides: that were judged.
        at_most: for each of `P_EDGES`, how many p-values are not above it.
        total: sum of all p-values.
        n_called: p-values of alpha at most.
        too_many: whether these are more than chance allows.
    """

    site: str
    scanner: str
    n_slides: int
    at_most: tuple[int, ...]
    total: float
    n_called: int
    too_many: bool

    def holds(self, drifted: Collection[tuple[str, str]]) -> bool | None:
        """Whether the calibration holds for this group; None where too few slides were judged to say so."""
        if self.too_many or (self.site, self.scanner) in drifted:
            return False
        return True if self.n_slides >= JUDGED else None


def judged_slides(decisions: pa.Table) -> pa.Table:
    """The rows whose p-values are news, in the order in which they were decided: scored, and not used before.

    The first of each patient in a group: what is claimed of normal slides is claimed of any one of a patient.
    """
    is_news = pc.and_(pc.equal(decisions["state"], "scored"), pc.is_null(decisions["note"]))
    told = decisions.select([name for name in _NEEDED if name in decisions.column_names])
    p = decisions["p_value"]
    rows = told.filter(pc.and_(is_news, pc.and_(pc.greater_equal(p, 0.0), pc.less_equal(p, 1.0))))  # NaN is neither
    keys = pa.table({"at": pc.fill_null(rows["decided_at"], ""), "slide_id": rows["slide_id"]})
    ordered = rows.take(pc.sort_indices(keys, sort_keys=[("at", "ascending"), ("slide_id", "ascending")]))
    return ordered.filter(pa.array(first_of_patients(ordered)))


def validity(decisions: pa.Table, *, alpha: float, n_calibration: int | None) -> list[GroupValidity]:
    """Every group of site and scanner.

    Args:
        decisions: of one bundle, see `judged_slides`.
        alpha: the stated false-alarm rate.
        n_calibration: slides of the calibration; None where it is not known: then chance is binomial. Where decisions
            tell how many normal slides their p-value rests on, the fewest of a group count for it.
    """
    members: dict[tuple[str, str], list[int]] = {}
    for place, name in enumerate(group_names(decisions)):
        members.setdefault(name, []).append(place)
    p = decisions["p_value"].to_numpy()
    groups = []
    for name in sorted(members):
        known = _fewest(decisions, members[name])
        groups.append(_group(name, p[members[name]], alpha, n_calibration if known is None else known))
    return groups


def holding(decisions: pa.Table, calibration: Calibration) -> list[bool | None]:
    """The column `calibration_holds` of these decisions of one bundle, in their order.

    It is the same for all slides of a site and scanner: false where they have drifted from the calibration's; true
    where `JUDGED` of them were judged and no more are called than chance allows. Where more are called, they may be
    anomalous or the calibration may be wrong: among slides whose truth is not known nobody can tell, and it is None.
    """
    judged = judged_slides(decisions)
    groups = validity(judged, alpha=calibration.alpha, n_calibration=len(calibration.scores))
    drifted = {(each.site, each.scanner) for each in drift(decisions, calibration) if each.measure is not None}
    holds: dict[tuple[str, str], bool | None] = dict.fromkeys(drifted, False)
    for each in groups:
        name = each.site, each.scanner
        holds.setdefault(name, None if each.too_many else each.holds(drifted))
    return [holds.get(name, holds.get(OTHER)) for name in zip(*_origins(decisions), strict=True)]


def _origins(decisions: pa.Table) -> tuple[list[str], list[str]]:
    """Site and scanner of each row, as `group_names` has those that it tells apart."""
    named = ([(text or UNKNOWN)[:MAX_NAME] for text in decisions[name].to_pylist()] for name in ("site", "scanner"))
    sites, scanners = named
    return sites, scanners


def _fewest(decisions: pa.Table, places: Sequence[int]) -> int | None:
    """The fewest normal slides that a p-value of these rows rests on; None where no row tells."""
    if "calibration_group_slides" not in decisions.column_names:
        return None
    fewest = pc.min(decisions["calibration_group_slides"].take(pa.array(places, pa.int64()))).as_py()
    return None if fewest is None else int(fewest)


def _group(
    name: tuple[str, str], p: npt.NDArray[np.float64], alpha: float, n_calibration: int | None
) -> GroupValidity:  # fmt: skip
    n_called = int((p <= alpha).sum())
    at_most = tuple(np.searchsorted(np.sort(p), P_EDGES, side="right").tolist())
    chance = probability_of_so_many(n_called, len(p), alpha=alpha, n_calibration=n_calibration)
    return GroupValidity(*name, len(p), at_most, float(p.sum()), n_called, chance < LEVEL)


def probability_of_so_many(n_called: int, n_slides: int, *, alpha: float, n_calibration: int | None) -> float:
    """How likely so many of these slides, or more, are called where all are normal.

    >>> round(probability_of_so_many(3, 20, alpha=0.05, n_calibration=None), 4)
    0.0755
    """
    from scipy import stats  # half a second

    if n_calibration is None:
        return float(stats.binom.sf(n_called - 1, n_slides, alpha))
    k = math.floor(alpha * (n_calibration + 1) + 1e-9)
    if k < 1:
        return 0.0 if n_called else 1.0
    return float(stats.betabinom.sf(n_called - 1, n_slides, k, n_calibration + 1 - k))


def most_common(counts: Counter[str], at_most: int, *, other: str = "other") -> dict[str, int]:
    """The counts of the most frequent, and of all others together.

    >>> most_common(Counter("aaabbc"), 2)
    {'a': 3, 'other': 3}
    """
    if len(counts) <= at_most:
        return dict(counts.most_common())
    first = dict(counts.most_common(at_most - 1))
    first[other] = first.get(other, 0) + counts.total() - sum(first.values())
    return first
