"""Slides known to be normal -> whether the stated false-alarm rate holds: at each site, scanner and stain, and in all.

Two questions are asked of every group, with one slide of each patient:

1. Are more slides called than chance allows? With n calibration slides and k = floor(alpha (n + 1)) the number called
   of m normal ones is beta-binomial (m; k, n + 1 - k), the chance in the calibration's slides included (Vovk 2012, see
   `decisions.validity`). The interval of the rate that is shown is Clopper and Pearson's (Biometrika 26:404, 1934).
2. Are p-values too low as a whole? Their sum counts the pairs in which a calibration slide scores as high as a slide,
   which is Mann and Whitney's U (Annals of Mathematical Statistics 18:50, 1947); its normal approximation is used. It
   sees a shift of all scores long before the few highest are called.

A report of a calibration that holds calls anything broken with probability `LEVEL` at most: the questions share it
(Bonferroni). How far p-values are from uniform is told by the largest distance of their distribution (Kolmogorov and
Smirnov), without a test: p-values that share calibration slides are not independent.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from uadray.decisions.conformal import one_a_patient
from uadray.decisions.false_alarms import rank_of
from uadray.decisions.validity import JUDGED
from uadray.errors import InputError
from uadray.slides.manifest import SlideRow, has_label

Floats = npt.NDArray[np.float64]
Decisions = Mapping[str, Mapping[str, Any]]
Verdict = Literal["holds", "broken", "too few"]

LEVEL = 0.05
"""Probability that anything is called broken where the rate holds everywhere."""

KINDS = ("site", "scanner", "stain")
MAX_GROUPS = 200
"""Groups that are judged; the largest."""

CURVE_POINTS = 201


@dataclass(frozen=True)
class Group:
    """Normal slides, one a patient.

    Attributes:
        kind: `all`, or what they have in common.
        value: of this kind.
        n_slides: how many they are.
        n_called: how many of them are decided to be anomalous.
        rate: share of them.
        rate_low: lower end of its 95 % interval.
        rate_high: upper end.
        expected: how many are called on average where the stated rate holds.
        at_most: more than these are too many.
        chance: probability of so many or more.
        mean_p: mean p-value; about a half where scores are as the calibration's.
        chance_of_p: probability of a mean as low.
        verdict: see the head of this file.
    """

    kind: str
    value: str
    n_slides: int
    n_called: int
    rate: float
    rate_low: float
    rate_high: float
    expected: float
    at_most: int
    chance: float
    mean_p: float
    chance_of_p: float
    verdict: Verdict


def validity_report(decisions: Decisions, rows: Sequence[SlideRow]) -> dict[str, Any]:
    """What the decisions of normal slides say of the stated rate, as JSON has it.

    Args:
        decisions: rows of `SLIDE_DECISIONS` by slide id.
        rows: the manifest of slides known to be normal. Those that calibrated or trained are left out.

    Returns:
        `verdict` in words and `holds` (None where it cannot be told), `alpha`, `groups`, `left_out` by reason,
        `ks_distance`, and `curve`: [p, share of the slides with a p-value of at most p].

    Raises:
        InputError: slides of the manifest are labelled otherwise, or none of them can be judged.
    """
    _check_normal(rows)
    judged, left_out = _judged(decisions, rows)
    if not judged:
        why = ", ".join(f"{n} {reason}" for reason, n in left_out.items()) or "it has none"
        raise InputError(f"none of the manifest's slides can say whether the calibration holds: {why}")
    alphas = Counter(decisions[row.slide_id]["alpha"] for row in judged)
    if len(alphas) > 1:
        raise InputError("slides were decided at several alphas: finish `uadray recalibrate` first")
    alpha = float(next(iter(alphas)))
    members = list(_members(judged))
    level = LEVEL / (2 * len(members))
    groups = [_group(kind, value, [decisions[i] for i in ids], alpha, level) for kind, value, ids in members]
    p = np.array([decisions[slide_id]["p_value"] for slide_id in members[0][2]])
    verdicts = [group.verdict for group in groups]
    return {
        "verdict": in_words(groups, alpha),
        "holds": False if "broken" in verdicts else True if groups[0].verdict == "holds" else None,
        "alpha": alpha,
        "n_slides": len(judged),
        "n_patients": groups[0].n_slides,
        "left_out": dict(left_out),
        "ks_distance": _distance(p),
        "groups": [asdict(group) for group in groups],
        "curve": _curve(p),
    }


def in_words(groups: Sequence[Group], alpha: float) -> str:
    """The verdict for people: where the rate holds, where it is broken and by how much, and where it cannot be told."""
    stated = f"The stated rate of {100 * alpha:.3g} %"
    broken = [f"{_name(each)}: {_why(each)}" for each in groups if each.verdict == "broken"]
    holds = [_name(each) for each in groups if each.verdict == "holds"]
    few = [f"{_name(each)} ({each.n_slides})" for each in groups if each.verdict == "too few"]
    parts = [f"is broken at {'; '.join(broken)}"] if broken else []
    parts += [f"holds at {', '.join(holds)}"] if holds else []
    parts += [f"cannot be told with fewer than {JUDGED} patients at {', '.join(few)}"] if few else []
    return f"{stated} {'. It '.join(parts)}."


def _check_normal(rows: Sequence[SlideRow]) -> None:
    other = [row.slide_id for row in rows if row.label and not has_label(row.label, "normal")]
    if other:
        raise InputError(f"--normals takes normal slides alone; labelled otherwise: {', '.join(other[:5])}")


def _judged(decisions: Decisions, rows: Sequence[SlideRow]) -> tuple[list[SlideRow], Counter[str]]:
    """The slides whose p-values are news, and how many others there are by reason."""
    judged, left_out = [], Counter[str]()
    for row in rows:
        decision = decisions.get(row.slide_id)
        if decision is None:
            left_out["not screened"] += 1
        elif decision["state"] != "scored":
            left_out["not scored"] += 1
        elif decision["note"] is not None:
            left_out[f"used for {decision['note']}"] += 1
        else:
            judged.append(row)
    return judged, left_out


def _members(rows: Sequence[SlideRow]) -> Iterator[tuple[str, str, list[str]]]:
    """Each group: its kind, its value, and its slides, one a patient. The first is of all."""
    patients = {row.slide_id: row.patient for row in rows}
    yield "all", "all", one_a_patient(patients)
    of_kinds: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for kind in KINDS:
            value = getattr(row, kind)
            if value:
                of_kinds.setdefault((kind, value), []).append(row.slide_id)
    largest = sorted(of_kinds, key=lambda name: -len(of_kinds[name]))[:MAX_GROUPS]
    for kind, value in sorted(largest, key=lambda name: (KINDS.index(name[0]), name[1])):
        yield kind, value, one_a_patient({slide_id: patients[slide_id] for slide_id in of_kinds[kind, value]})


def _group(kind: str, value: str, decisions: Sequence[Mapping[str, Any]], alpha: float, level: float) -> Group:
    from scipy import stats  # half a second

    m, called = len(decisions), sum(each["decision"] == "anomalous" for each in decisions)
    low, high = clopper_pearson(called, m)
    n = min((each["calibration_group_slides"] for each in decisions if each["calibration_group_slides"]), default=None)
    k = rank_of(alpha, n) if n else 0
    number = stats.betabinom(m, k, n + 1 - k) if n and k else stats.binom(m, alpha)
    p = np.array([each["p_value"] for each in decisions])
    chance, chance_of_p = float(number.sf(called - 1)), _chance_of_p(decisions)
    verdict: Verdict = "holds" if m >= JUDGED else "too few"
    if chance < level or (m >= JUDGED and chance_of_p < level):
        verdict = "broken"
    return Group(
        kind, value, m, called, called / m, low, high, expected=float(number.mean()), at_most=int(number.isf(level)),
        chance=chance, mean_p=float(p.mean()), chance_of_p=chance_of_p, verdict=verdict,
    )  # fmt: skip


def clopper_pearson(called: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a rate.

    >>> [round(end, 4) for end in clopper_pearson(9, 20)]
    [0.2306, 0.6847]
    """
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = float(betaincinv(called, n - called + 1, tail)) if called else 0.0
    return low, float(betaincinv(called + 1, n - called, 1 - tail)) if called < n else 1.0


def _chance_of_p(decisions: Sequence[Mapping[str, Any]]) -> float:
    """Probability that p-values are as low as these together, or lower; 1 where it is not known what they rest on.

    Slides with the same reference share its calibration slides: of m of them with n, sum((n + 1) p) - m is U.
    """
    pairs: dict[tuple[str, int], list[float]] = {}
    for each in decisions:
        if each["calibration_group_slides"]:
            pairs.setdefault((each["calibration_group"], each["calibration_group_slides"]), []).append(each["p_value"])
    if sum(map(len, pairs.values())) < len(decisions):
        return 1.0
    total = mean = variance = 0.0
    for (_, n), p in pairs.items():  # on the scale of p-values: references of all sizes count by their slides
        m = len(p)
        total += sum(p)
        mean += m * (1 + n / 2) / (n + 1)
        variance += n * m * (n + m + 1) / 12 / (n + 1) ** 2
    return 0.5 * math.erfc(-(total - mean) / math.sqrt(2 * variance))


def _distance(p: Floats) -> float:
    """The largest distance of the distribution of p-values from the uniform one."""
    ordered, n = np.sort(p), len(p)
    steps = np.arange(1, n + 1) / n
    return float(max((steps - ordered).max(), (ordered - steps + 1 / n).max()))


def _curve(p: Floats) -> list[list[float]]:
    """[p, share of slides with at most p] at `CURVE_POINTS` places."""
    places = np.linspace(0, 1, CURVE_POINTS)
    shares = np.searchsorted(np.sort(p), places, side="right") / len(p)
    return [[float(place), float(share)] for place, share in zip(places, shares, strict=True)]


def _name(group: Group) -> str:
    return "all slides together" if group.kind == "all" else f"{group.kind} {_printable(group.value)}"


def _why(group: Group) -> str:
    if group.n_called > group.at_most:
        return f"{group.n_called} of {group.n_slides} called where at most {group.at_most} are expected"
    return f"p-values of {group.n_slides} slides are too low (mean {group.mean_p:.2f} where 0.5 is expected)"


def _printable(text: str) -> str:
    """At most 60 characters of a manifest's text."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:60])
