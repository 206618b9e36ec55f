"""`bench calibration`: do false-alarm rates, their intervals, false discoveries and alarms hold, on simulated archives.

1,000 archives of `simulated_archives`, each with normal slides of its own to calibrate it by site. Decisions and
p-values are made by the functions that screenings use; the true rate of a calibration is known from its threshold.

- coverage: of how many archives the true rate lies in the stated 95 % interval, and what the rate is on average, in the
  pool and at each site that has enough slides; with plain and with smoothed p-values. `all_slides` is what happens to
  the interval where each slide counts, and not one of each patient. `by_the_pool` is the rate at sites that are too
  small: it is not what alpha states for them, which is why decisions say so.
- discoveries: archives in which one patient in ten is abnormal: the mean share of normal slides on the list of
  Benjamini and Hochberg at q, and of abnormal ones that it misses.
- broken: how often the calibration is reported as broken where all scores have moved by half a deviation, and where
  none has, by patients of the archive (`calibration_alarms`).
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from uadray.bench.calibration_alarms import SIZES, reported_broken
from uadray.bench.simulated_archives import NAMES, Floats, Slides, calibrated, drawn, p_of, true_rate
from uadray.decisions.conformal import Calibration
from uadray.decisions.false_alarms import false_alarm_interval, rank_of
from uadray.decisions.fdr import discoveries
from uadray.decisions.groups import POOL, reference_of
from uadray.decisions.p_values import smoothed_p_value, threshold_of, uniform_of
from uadray.errors import InputError

ARCHIVES = 1000
ALPHAS = (0.05, 0.2)
RATES = (0.1, 0.2)
NORMAL_PATIENTS, PATIENTS = 150, 60
"""Of a calibration and of an archive, for coverage."""

LIST_NORMALS, LIST_PATIENTS, ABNORMAL, MOVED = 600, 100, 0.1, 3.0
"""Of a calibration and of an archive, for discoveries: more normal slides, or no list could be short enough."""

GOALS = {
    "in_interval_least": 0.93, "in_interval_most": 0.97, "rate_over_alpha": 1.0, "fdr_over_q": 1.0,
    "reported_of_moved": 0.9, "reported_of_normal": 0.05,
}  # fmt: skip
"""Of the share of archives whose true rate lies in the 95 % interval the least and the most over alphas and sites (of
1,000 archives three standard errors); the highest mean rate and false discovery rate, as shares of what is stated; how
many archives of 200 patients `evaluate` reports as broken: at least, where scores have moved by half a deviation, and
at most, where they have not. Three standard errors are taken from what must be low."""

PARTS = ("coverage", "discoveries", "broken")
_AT_LEAST = ("in_interval_least", "reported_of_moved")
SEED = 2026


def run(*, only: Sequence[str] = PARTS, archives: int = ARCHIVES) -> dict[str, Any]:
    """Simulate; prints nothing. Eight minutes of one core.

    Args:
        only: parts.
        archives: how many.

    Raises:
        InputError: there is no such part.
    """
    if unknown := [part for part in only if part not in PARTS]:
        raise InputError(f"bench calibration has no part {unknown[0]!r}; there are: {', '.join(PARTS)}")
    figures: dict[str, Any] = {}
    reached: dict[str, float] = {}
    if "coverage" in only:
        figures["coverage"] = coverage(archives)
        cases = [case for of_alpha in figures["coverage"].values() for case in of_alpha["cases"].values()]
        reached["in_interval_least"] = min(case["in_interval"] for case in cases)
        reached["in_interval_most"] = max(case["in_interval"] for case in cases)
        reached["rate_over_alpha"] = max(
            (value - 3 * error) / of_alpha["alpha"] for of_alpha in figures["coverage"].values()
            for case in of_alpha["cases"].values() for value, error in (case["rate"], case["called"])
        )  # fmt: skip
    if "discoveries" in only:
        figures["discoveries"] = false_discoveries(archives)
        reached["fdr_over_q"] = max(
            (each["fdr"][0] - 3 * each["fdr"][1]) / each["q"] for each in figures["discoveries"].values()
        )
    if "broken" in only:
        figures["broken"] = reported_broken(archives)
        most = {name: of_size[str(max(SIZES))]["evaluate"] for name, of_size in figures["broken"].items()}
        reached["reported_of_moved"] = min(share for name, share in most.items() if not name.endswith("moved_0"))
        alarms = max(share for name, share in most.items() if name.endswith("moved_0"))
        reached["reported_of_normal"] = alarms - 3 * math.sqrt(alarms * (1 - alarms) / archives)
    met = all(value >= GOALS[name] if name in _AT_LEAST else value <= GOALS[name] for name, value in reached.items())
    return {"archives": archives, **figures, "reached": reached, "goals": GOALS, "goals_met": met}


def coverage(archives: int, *, seed: int = SEED) -> dict[str, Any]:
    """By alpha: the true rates of calibrations against what they state, see the head of this file."""
    rng = np.random.default_rng(seed)
    told: dict[float, _Told] = {alpha: _Told() for alpha in ALPHAS}
    for i in range(archives):
        normals, archive = (drawn(rng, n, name=f"{kind}{i}") for kind, n in (("n", NORMAL_PATIENTS), ("a", PATIENTS)))
        by_site = calibrated(normals, ALPHAS[0])
        for alpha in ALPHAS:
            told[alpha].add(by_site.model_copy(update={"alpha": alpha}), normals, archive)
    return {f"{alpha:g}": {"alpha": alpha, **told[alpha].figures()} for alpha in ALPHAS}


class _Told:
    """What calibrations at one alpha said, and what is true.

    Attributes:
        inside: by site or pool, of each archive whether the true rate lay in the interval.
        rates: the true rate.
        called: the share of the slides of the archive that were called, where it has any.
        stated: k / (n + 1), or alpha where p-values are smoothed.
        by_the_pool: by site, the true rates where it had too few slides.
    """

    def __init__(self) -> None:
        self.inside, self.rates, self.called, self.stated, self.by_the_pool = (
            defaultdict[str, list[float]](list) for _ in range(5)
        )
        self.all_slides: list[bool] = []

    def add(self, by_site: Calibration, normals: Slides, archive: Slides) -> None:
        alpha, pool = by_site.alpha, by_site.model_copy(update={"group_by": (), "groups": ()})
        self._plain(POOL, by_site.scores, alpha, NAMES, p_of(archive, pool))
        p = p_of(archive, by_site)
        for i, name in enumerate(NAMES):
            reference = reference_of(by_site, {"site": name})
            if reference.why is None:
                self._plain(reference.name, reference.scores, alpha, (name,), p[archive.site == i])
            else:
                self.by_the_pool[name].append(true_rate(threshold_of(reference.scores, alpha), (name,)))
        self._smoothed(pool, archive)
        low, high = false_alarm_interval(alpha, len(normals.score))
        self.all_slides.append(low <= true_rate(threshold_of(sorted(normals.score), alpha)) <= high)

    def _plain(
        self, name: str, scores: Sequence[float], alpha: float, sites: Sequence[str], p: Floats
    ) -> None:  # fmt: skip
        rate = true_rate(threshold_of(scores, alpha), sites)
        stated = rank_of(alpha, len(scores)) / (len(scores) + 1)
        self._count(name, rate, stated, false_alarm_interval(alpha, len(scores)), p <= alpha)

    def _smoothed(self, calibration: Calibration, archive: Slides) -> None:
        """Slides between two normal ones are called with a probability, which is the share of u that calls them."""
        alpha, scores = calibration.alpha, calibration.scores
        n = len(scores)
        always, sometimes = (true_rate(threshold_of(scores, alpha, u)) for u in (1.0, 0.0))
        rate = always + (alpha * (n + 1) - rank_of(alpha, n)) * (sometimes - always)
        p = np.array([
            smoothed_p_value(score, scores, uniform_of(slide_id, calibration.id))
            for score, slide_id in zip(archive.score[:20].tolist(), archive.ids, strict=False)
        ])  # fmt: skip
        self._count("pool_smoothed", rate, alpha, false_alarm_interval(alpha, n, smoothed=True), p <= alpha)

    def _count(
        self, name: str, rate: float, stated: float, interval: tuple[float, float], called: "np.ndarray[Any, Any]"
    ) -> None:  # fmt: skip
        self.inside[name].append(interval[0] <= rate <= interval[1])
        self.rates[name].append(rate)
        self.stated[name].append(stated)
        if len(called):
            self.called[name].append(float(called.mean()))

    def figures(self) -> dict[str, Any]:
        """Means over archives, of rates with their standard errors."""
        cases = {
            name: {
                "archives": len(self.rates[name]), "in_interval": round(float(np.mean(self.inside[name])), 4),
                "stated": round(float(np.mean(self.stated[name])), 4), "rate": mean_and_error(self.rates[name]),
                "called": mean_and_error(self.called[name]),
            }
            for name in sorted(self.rates)
        }  # fmt: skip
        small = {name: [len(rates), *mean_and_error(rates)] for name, rates in self.by_the_pool.items()}
        return {"cases": cases, "all_slides_in_interval": float(np.mean(self.all_slides)), "by_the_pool": small}


def false_discoveries(archives: int, *, seed: int = SEED + 1) -> dict[str, Any]:
    """By q, pooled and by site: the mean share of false discoveries and of missed slides, with standard errors."""
    rng = np.random.default_rng(seed)
    false, missed = (defaultdict[tuple[float, str], list[float]](list) for _ in range(2))
    for i in range(archives):
        by_site = calibrated(drawn(rng, LIST_NORMALS, name=f"n{i}"), ALPHAS[0])
        archive = drawn(rng, LIST_PATIENTS, name=f"a{i}")
        is_abnormal = (rng.random(LIST_PATIENTS) < ABNORMAL)[archive.patient]
        archive = archive.moved(MOVED, which=is_abnormal)
        for name, calibration in (("by_site", by_site), ("pool", by_site.model_copy(update={"group_by": ()}))):
            p = p_of(archive, calibration)
            for q in RATES:
                listed = discoveries(p, q)
                false[q, name].append(float((listed & ~is_abnormal).sum()) / max(1, int(listed.sum())))
                missed[q, name].append(float((is_abnormal & ~listed).sum()) / max(1, int(is_abnormal.sum())))
    return {
        f"{name}_{q:g}": {"q": q, "fdr": mean_and_error(false[q, name]), "missed": mean_and_error(missed[q, name])}
        for q, name in false
    }


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean over archives and its standard error."""
    return round(float(np.mean(values)), 4), round(float(np.std(values)) / math.sqrt(max(1, len(values))), 5)
