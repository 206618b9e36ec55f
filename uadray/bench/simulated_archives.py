"""Archives of normal slides with known score distributions: sites that differ, patients with several slides.

The score of a slide of site g is mean_g + deviation_g * z. z is standard normal and made of a part of the patient and a
part of the slide, so that slides of a patient are alike wherever they were made. Most slides of a patient are of one
site, and some of another. So the true false-alarm rate of any threshold is known, at each site and in all.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from uadray.decisions.aggregation import AggregationConfig
from uadray.decisions.conformal import Calibration, one_a_patient
from uadray.decisions.groups import groups_of, reference_of
from uadray.decisions.p_values import p_values

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Site:
    """The scores of normal slides of a site, and what share of all slides they are."""

    mean: float
    deviation: float
    share: float


SITES = {
    "North": Site(0.0, 1.0, 0.5),
    "South": Site(0.8, 1.5, 0.3),
    "West": Site(-0.5, 0.7, 0.16),
    "East": Site(1.0, 1.0, 0.04),
}
NAMES = tuple(SITES)

LIKENESS = 0.6
"""Share of the variance that slides of a patient have in common."""

ELSEWHERE = 0.2
"""Share of slides that are made at another site than the patient's own, drawn anew."""

MOST_SLIDES = 4
"""A patient has 1 to so many slides."""


@dataclass(frozen=True)
class Slides:
    """Slides of an archive, [n] each: the patient, the place of the site in `NAMES`, z, the score; and their ids."""

    patient: Ints
    site: Ints
    z: Floats
    score: Floats
    ids: tuple[str, ...]

    def moved(self, deviations: float, *, which: npt.NDArray[np.bool_] | None = None) -> "Slides":
        """The slides with scores that are higher by so many deviations of their site; all, or these."""
        by = deviations if which is None else deviations * which
        return Slides(self.patient, self.site, self.z + by, _scores(self.site, self.z + by), self.ids)


def drawn(rng: np.random.Generator, n_patients: int, *, name: str) -> Slides:
    """The slides of so many patients; `name` begins their ids."""
    shares = np.array([site.share for site in SITES.values()])
    n_slides = rng.integers(1, MOST_SLIDES + 1, n_patients)
    patient = np.repeat(np.arange(n_patients), n_slides)
    home = rng.choice(len(shares), n_patients, p=shares)[patient]
    other = rng.choice(len(shares), len(patient), p=shares)
    site = np.where(rng.random(len(patient)) < ELSEWHERE, other, home)
    z = math.sqrt(LIKENESS) * rng.standard_normal(n_patients)[patient]
    z = z + math.sqrt(1 - LIKENESS) * rng.standard_normal(len(patient))
    return Slides(patient, site, z, _scores(site, z), tuple(f"{name}/{i}" for i in range(len(patient))))


def calibrated(slides: Slides, alpha: float) -> Calibration:
    """The calibration of these slides by site, as `uadray calibrate --by site` makes it of their scores."""
    scores = dict(zip(slides.ids, slides.score.tolist(), strict=True))
    patients = {i: ("patient", str(p)) for i, p in zip(slides.ids, slides.patient.tolist(), strict=True)}
    origins: Mapping[str, Mapping[str, str | None]] = {
        i: {"site": NAMES[site]} for i, site in zip(slides.ids, slides.site.tolist(), strict=True)
    }
    return Calibration(
        id=slides.ids[0], bundle_id="bench", aggregation=AggregationConfig(), alpha=alpha,
        scores=tuple(sorted(scores[i] for i in one_a_patient(patients))), tile_median=0.0, tile_p99=1.0, tile_high=1.0,
        group_by=("site",), groups=groups_of(scores, origins, patients, ("site",)),
    )  # fmt: skip


def p_of(slides: Slides, calibration: Calibration) -> Floats:
    """The p-value of each slide among the normal slides that judge it, [n]."""
    p = np.empty(len(slides.score))
    for site, name in enumerate(NAMES):
        at = slides.site == site
        p[at] = p_values(slides.score[at], reference_of(calibration, {"site": name}).scores)
    return p


def true_rate(threshold: float, sites: Sequence[str] = NAMES) -> float:
    """The share of normal slides of these sites that score higher."""
    chosen = [SITES[name] for name in sites]
    above = [site.share * math.erfc((threshold - site.mean) / site.deviation / math.sqrt(2)) / 2 for site in chosen]
    return sum(above) / sum(site.share for site in chosen)


def _scores(site: Ints, z: Floats) -> Floats:
    means, deviations = (np.array([getattr(s, name) for s in SITES.values()]) for name in ("mean", "deviation"))
    return np.asarray(means[site] + deviations[site] * z)
