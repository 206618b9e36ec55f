"""A slide score against normal slides: conformal p-value, threshold, and the false-alarm rate that can be stated.

Conformal p-value of a slide score s against n normal slides (Vovk et al. 2005, ch. 2; Bates et al. 2023, "Testing for
outliers with conformal p-values", eq. 1): p = (1 + #{s_i >= s}) / (n + 1). If the slide is normal and exchangeable
with the calibration slides, P(p <= alpha) <= alpha, whatever the distribution of the scores.

Slides of one patient are alike, and not exchangeable with those of others: n counts patients. One slide of each is
taken, without a look at its score ("single subsampling" in Dunn, Wasserman and Ramdas, arXiv 1809.07441); the claim
then holds for any one slide of a patient who is not among them.

By group (Mondrian; Vovk et al. 2005, 4.5): the same within the slides of one site, scanner or stain, where there are
enough of them (`decisions.groups`). The claim then holds for a normal slide of that group, and not just on average
over groups. One slide of each patient is taken in each group: a patient with slides in two groups counts in each once.
Within a group all scores are of different people, and the claim needs no more; the rates of two groups that share
patients depend on each other, and each is as stated all the same.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import Field, FiniteFloat, StringConstraints, model_validator

from uadray.config import Config
from uadray.decisions.aggregation import WITH_TAIL, AggregationConfig
from uadray.decisions.choosing import Choice
from uadray.decisions.false_alarms import false_alarm_interval, normals_needed
from uadray.decisions.p_values import p_value, p_values, smoothed_p_value, threshold_of, uniform_of
from uadray.decisions.tile_reference import TileReference
from uadray.decisions.tile_tail import TileTail
from uadray.errors import InputError
from uadray.provenance import fingerprint
from uadray.slides.identity import Seen

__all__ = [
    "MAX_NAME", "Calibration", "CalibrationGroup", "Kind", "NormalSlide", "calibration_id", "check_alpha",
    "false_alarm_interval", "normals_needed", "one_a_patient", "p_value", "p_values", "smoothed_p_value", "threshold",
    "threshold_of", "tile_p_values", "uniform_of",
]  # fmt: skip

Floats = npt.NDArray[np.float64]

MAX_NAME = 200
"""Letters of the name of a site, scanner or stain that a calibration keeps."""

MAX_SCORES, MAX_GROUPS = 1_000_000, 1000
"""The most normal slides, and groups of them, of a calibration."""

Kind = Literal["site", "scanner", "stain"]
"""What groups of slides may differ in."""


class NormalSlide(Config):
    """What a calibration keeps of one of its slides besides the score: where it is from, and its `slide_measures`."""

    site: str | None = Field(default=None, max_length=MAX_NAME)
    scanner: str | None = Field(default=None, max_length=MAX_NAME)
    stain: str | None = Field(default=None, max_length=MAX_NAME)
    tile_score_median: FiniteFloat | None = None
    saturation: FiniteFloat | None = None
    green: FiniteFloat | None = None
    focus: FiniteFloat | None = None
    tissue_share: FiniteFloat | None = None


class CalibrationGroup(Config):
    """The normal slides of one site, scanner or stain, or of a combination of them.

    Attributes:
        values: what they have in common, such as {"site": "North", "scanner": "S360"}.
        scores: one a patient, ascending.
    """

    values: dict[Kind, Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME)]] = Field(min_length=1)
    scores: tuple[FiniteFloat, ...] = Field(min_length=1, max_length=MAX_SCORES)

    @model_validator(mode="after")
    def _ascend(self) -> "CalibrationGroup":
        _check_ascending(self.scores)
        return self


class Calibration(Config):
    """`calibration.json` of a bundle.

    Attributes:
        id: names this calibration in decisions.
        bundle_id: the bundle whose scores these are.
        aggregation: how they were made; screening uses the same.
        alpha: the stated false-alarm rate: at most this share of normal slides is called anomalous.
        scores: of the normal slides, one a patient, ascending.
        slides: marks of all slides that were scored for it (`slides.identity`), sorted, those that chose the method
            among them. A screening notes when it meets such a slide again: its own score is among those that it is
            compared with, or its label has told which scores to make.
        salt: with which these marks were made.
        tile_median: median score of all their tiles; the pale end of a heatmap.
        tile_p99: 99 % of their tiles score less; a heatmap rings the tiles above it.
        tile_high: the dark end of a heatmap.
        tile_ceiling: what a tile's score counts for at most in `grow`; None with the other methods.
        tile_reference: what else the method needs to know of normal tiles; None where it needs nothing, and in older
            versions.
        tile_quantiles: quantiles of their tiles' scores, evenly spaced from 0 to 100 %, ascending; none in
            calibrations of older versions.
        cell_median: median of their tiles' smoothed cells, where the detector gives any; a heatmap's pale end of cells.
        cell_p99: 99 % of these cells are below it.
        cell_high: a heatmap's dark end of cells.
        made: when, as `provenance.now_iso` writes it; empty in calibrations of older versions.
        normals: of each slide whose score is in `scores`, in no order that tells which; none in older versions.
        group_by: what a slide's group is made of; empty where all slides are compared with all.
        groups: the normal slides of each group, those with too few to be used among them.
        smoothed: whether decisions are made by smoothed p-values.
        choice: how the method was chosen, where it was (`decisions.choosing`).
        tile_tail: scores of their tiles, for `tile_p_values`; None in calibrations of older versions.
    """

    id: str = Field(max_length=200)
    bundle_id: str = Field(max_length=200)
    aggregation: AggregationConfig
    alpha: float = Field(gt=0, lt=1)
    scores: tuple[FiniteFloat, ...] = Field(min_length=1, max_length=MAX_SCORES)
    slides: tuple[str, ...] = ()
    salt: str = ""
    tile_median: FiniteFloat
    tile_p99: FiniteFloat
    tile_high: FiniteFloat
    tile_ceiling: FiniteFloat | None = None
    tile_reference: TileReference | None = None
    tile_quantiles: tuple[FiniteFloat, ...] = Field(default=(), max_length=1001)
    cell_median: FiniteFloat | None = None
    cell_p99: FiniteFloat | None = None
    cell_high: FiniteFloat | None = None
    made: str = Field(default="", max_length=40)
    normals: tuple[NormalSlide, ...] = Field(default=(), max_length=MAX_SCORES)
    group_by: tuple[Kind, ...] = Field(default=(), max_length=len(get_args(Kind)))
    groups: tuple[CalibrationGroup, ...] = Field(default=(), max_length=MAX_GROUPS)
    smoothed: bool = False
    tile_tail: TileTail | None = None
    choice: Choice | None = None

    @model_validator(mode="after")
    def _has_ceiling(self) -> "Calibration":
        if self.aggregation.method == "grow" and self.tile_ceiling is None:
            raise ValueError("slide scores by `grow` need a tile_ceiling")
        if self.aggregation.method in WITH_TAIL and self.reference.tail is None:
            raise ValueError(f"slide scores by `{self.aggregation.method}` need a tile_reference with a tail")
        return self

    @model_validator(mode="after")
    def _quantiles_ascend(self) -> "Calibration":
        if len(self.tile_quantiles) == 1 or any(low > high for low, high in pairwise(self.tile_quantiles)):
            raise ValueError("tile_quantiles must be none, or two at least in ascending order")
        return self

    @model_validator(mode="after")
    def _groups_are_of_the_slides(self) -> "Calibration":
        _check_ascending(self.scores)
        if len(set(self.group_by)) < len(self.group_by):
            raise ValueError("group_by names something twice")
        if any(set(group.values) != set(self.group_by) for group in self.groups):
            raise ValueError(f"each group must have the values of group_by, {', '.join(self.group_by) or 'none'}")
        if len({tuple(sorted(group.values.items())) for group in self.groups}) < len(self.groups):
            raise ValueError("a group is there twice")
        if any(len(group.scores) > len(self.scores) for group in self.groups):
            raise ValueError("a group has more slides, one a patient, than there are patients in all")
        return self

    @property
    def reference(self) -> TileReference:
        """`tile_reference`, or one with the ceiling alone."""
        return self.tile_reference or TileReference(ceiling=self.tile_ceiling)

    @property
    def cell_scale(self) -> tuple[float, float] | None:
        """The ends of a heatmap of cells; None where no cells were calibrated."""
        return None if self.cell_median is None or self.cell_high is None else (self.cell_median, self.cell_high)

    @property
    def seen(self) -> Seen:
        """The slides that it was made of."""
        return Seen(self.salt, frozenset(self.slides))


def _check_ascending(scores: Sequence[float]) -> None:
    if any(low > high for low, high in pairwise(scores)):
        raise ValueError("scores must be in ascending order")


def calibration_id(calibration: Calibration) -> str:
    """The name of a calibration: it changes with all that decisions and pictures rest on, and with nothing else."""
    rest = {"id", "made", "salt", "slides", "normals", "choice"}
    return fingerprint([calibration.model_dump_json(exclude=rest)])[:12]


def tile_p_values(scores: Floats, calibration: Calibration) -> Floats:
    """P-values of tiles among those of the calibration's slides, of any shape; see `tile_tail` for what they claim.

    Calibrations of older versions have whole per cent of all tiles alone: no p-value is below 1 / 101 then.

    Raises:
        InputError: the calibration keeps nothing of its tiles.
    """
    if calibration.tile_tail is not None:
        return calibration.tile_tail.p_values(scores)
    n = len(calibration.tile_quantiles) - 1
    if n < 1:
        raise InputError(f"calibration {calibration.id} keeps too little of its tiles for p-values; calibrate again")
    below: dict[float, int] = {}  # of equal quantiles the first
    for i, quantile in enumerate(calibration.tile_quantiles):
        below.setdefault(quantile, i)
    above = tuple(max(0.5, n - i) / n for i in below.values())
    return TileTail(n_effective=n, scores=tuple(below), above=above).p_values(scores)


def threshold(calibration: Calibration) -> float:
    """The score above which, and only above which, a slide that all slides judge is anomalous (p <= alpha).

    It is the k-th highest calibration score, with k = floor(alpha * (n + 1)).
    """
    return threshold_of(calibration.scores, calibration.alpha)


def one_a_patient(patients: Mapping[str, tuple[str, str]]) -> list[str]:
    """One slide id of each patient, chosen by a hash of the ids: the same every time, whatever the scores are.

    Args:
        patients: slide id -> patient.
    """
    first: dict[tuple[str, str], str] = {}
    for slide_id in sorted(patients, key=lambda slide_id: (fingerprint([slide_id]), slide_id)):
        first.setdefault(patients[slide_id], slide_id)
    return sorted(first.values())


def check_alpha(alpha: float, n_slides: int) -> None:
    """Refuse an alpha that no slide could reach: n normal slides, one a patient, give no p-value below 1 / (n + 1).

    Smoothed p-values can be lower. They are refused all the same: a draw would decide, and not the slide.

    Raises:
        InputError: with the number of slides that it would take, and that are missing.
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha {alpha}: a false-alarm rate lies between 0 and 1")
    needed = normals_needed(alpha)
    if n_slides < needed:
        raise InputError(
            f"alpha {alpha:g} needs at least {needed} normal slides that can be scored; there are {n_slides}, one a "
            f"patient, whose smallest p-value is {1 / (n_slides + 1):.3g}: {needed - n_slides} more, or a higher alpha"
        )
