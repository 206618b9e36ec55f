"""Which way of making slide scores is chosen, on a few normal slides and at most twenty known anomalous ones.

Every method is judged by cross-validation: what it needs to know of normal tiles is of four fifths of the normal
slides, and the others are compared with the anomalous ones. Its AUROC has the standard error of DeLong et al. 1988
(https://doi.org/10.2307/2531595), and so has the difference of two methods on the same slides. With so few anomalous
slides the best of nine is often so by chance. So the default stays unless the best method is ahead of it by more than
one standard error of the difference (the one-standard-error rule of Breiman et al. 1984, "Classification and regression
trees", 3.4.3, towards what is known to work on other data).

A choice that has seen the calibration's slides would favour a method under which these very slides happen to score
low, and too many later slides would be called. Simulated with 30 normal and 20 anomalous slides, 1.5 deviations above
them, and alpha 0.1, which allows 0.097: of nine methods whose scores have nothing in common the false-alarm rate was
0.133, and with scores that correlate by 0.8 it was 0.115. So the slides that choose do not calibrate (`choosers`), and
the rate is that of a method named beforehand.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from uadray.config import Config
from uadray.decisions.aggregation import (
    METHODS,
    AggregationConfig,
    Method,
    new_aggregation,
    reference_of,
    score_of,
    scored_squares,
)
from uadray.decisions.false_alarms import normals_needed
from uadray.decisions.neighbourhoods import Squares
from uadray.decisions.p_values import p_values
from uadray.errors import InputError
from uadray.provenance import fingerprint
from uadray.tiles.spec import TileSpec

Floats = npt.NDArray[np.float64]

MIN_ANOMALIES, MAX_ANOMALIES = 5, 20
"""Known anomalous slides that choose. Fewer tell no two methods apart. With more the choice would be fitted to these
kinds of anomaly, and what is looked for is what nobody has seen; they are better kept for `uadray evaluate`."""

MIN_NORMALS, MAX_NORMALS = 10, 60
"""Normal slides that choose, one a patient; three for each anomalous one tell nearly as much as any number would."""

FOLDS = 5


class MethodFigures(Config):
    """What a method does on the slides that choose.

    Attributes:
        method: see `AggregationConfig`.
        auroc: of slides, cross-validated.
        auroc_se: its standard error.
        ahead: how far it lies above that of the default.
        ahead_se: standard error of that, of the same slides.
        called: the share of anomalous slides that are called at alpha; None where there are too few slides for alpha.
        false_alarms: the share of normal slides that are.
    """

    method: Method
    auroc: float = Field(ge=0, le=1)
    auroc_se: float = Field(ge=0)
    ahead: float
    ahead_se: float = Field(ge=0)
    called: float | None = Field(ge=0, le=1)
    false_alarms: float | None = Field(ge=0, le=1)


class Choice(Config):
    """Which method was chosen, and from what; a calibration keeps it.

    Attributes:
        method: that was chosen.
        default: what stays unless another is ahead by more than one standard error.
        n_normals: normal slides that chose, one a patient.
        n_anomalous: anomalous slides that chose.
        methods: all of them, best first.
        why: of the method, in words.
    """

    method: Method
    default: Method
    n_normals: int = Field(ge=1)
    n_anomalous: int = Field(ge=1)
    methods: tuple[MethodFigures, ...] = Field(min_length=1, max_length=len(METHODS))
    why: str = Field(max_length=500)


class SlideSquares(NamedTuple):
    """What the methods look at of one slide: each of its tiles, and its squares."""

    tiles: Squares
    squares: Squares

    def of(self, config: AggregationConfig) -> Squares:
        """What `config` looks at, see `scored_squares`."""
        return self.tiles if config.method == "top" else self.squares


def slide_squares(tiles: pa.Table, spec: TileSpec | None = None) -> SlideSquares:
    """What the methods look at, from rows of `TILE_SCORES` of a slide; see `squares_of`."""
    by_tile, by_square = new_aggregation("top"), new_aggregation("grow")
    return SlideSquares(scored_squares(tiles, by_tile, spec=spec), scored_squares(tiles, by_square, spec=spec))


def choose(
    normals: Sequence[SlideSquares], anomalies: Sequence[SlideSquares], *, alpha: float, default: AggregationConfig
) -> Choice:
    """Compare all methods and choose one, see the head of this file.

    Args:
        normals: normal slides, one a patient, in an order that says nothing of their scores.
        anomalies: anomalous slides.
        alpha: the false-alarm rate at which slides are called.
        default: stays unless another method is better by more than one standard error.

    Raises:
        InputError: there are too few of either for a standard error, or for the folds.
    """
    if len(normals) < FOLDS or len(anomalies) < 2:
        raise InputError(
            f"--choose: of the slides that choose {len(normals)} normal and {len(anomalies)} anomalous ones can be "
            f"scored; at least {FOLDS} and 2 are needed"
        )
    configs = {method: new_aggregation(method) for method in METHODS} | {default.method: default}
    compared = {method: _compared(normals, anomalies, config, alpha) for method, config in configs.items()}
    figures = [_figures(method, each, compared[default.method]) for method, each in compared.items()]
    figures.sort(key=lambda each: (-each.auroc, each.method != default.method))
    method, why = chosen_of(figures, default.method)
    return Choice(
        method=method, default=default.method, n_normals=len(normals), n_anomalous=len(anomalies),
        methods=tuple(figures), why=why,
    )  # fmt: skip


def chosen_of(figures: Sequence[MethodFigures], default: Method) -> tuple[Method, str]:
    """The method that is chosen of several, the best first, and why."""
    best = figures[0]
    if best.method == default:
        return default, f"{default} has the highest AUROC, {best.auroc:.3f}"
    told = f"{best.method} is ahead of {default} by {best.ahead:.3f} in AUROC"
    if best.ahead > best.ahead_se:
        return best.method, f"{told}, more than the standard error of that, {best.ahead_se:.3f}"
    return default, f"{told}, no more than the standard error of that, {best.ahead_se:.3f}: {default} stays"


def choosers(patients: Collection[tuple[str, str]], *, alpha: float) -> set[tuple[str, str]]:
    """The patients whose normal slides choose, and do not calibrate: half of them, `MAX_NORMALS` at most.

    They are taken by a hash of their names, whatever the scores are, and as many are left as alpha needs.

    Raises:
        InputError: there are not enough for both.
    """
    names = sorted(set(patients), key=lambda patient: fingerprint(["chooses", *patient]))
    needed = normals_needed(alpha)
    n_choosing = min(len(names) // 2, len(names) - needed, MAX_NORMALS)
    if n_choosing < MIN_NORMALS:
        missing = max(MIN_NORMALS + needed, 2 * MIN_NORMALS) - len(names)
        raise InputError(
            f"--choose takes {MIN_NORMALS} normal slides at least, one a patient, which then do not calibrate (the "
            f"false-alarm rate would not hold), and alpha {alpha:g} needs {needed} others; of {len(names)} patients "
            f"there are {missing} too few. Give more, or other normal slides beside the anomalous ones"
        )
    return set(names[:n_choosing])


def check_counts(n_normals: int, n_anomalous: int) -> None:
    """Refuse too few or too many slides.

    Raises:
        InputError: with the numbers, and what to do.
    """
    if n_anomalous > MAX_ANOMALIES:
        raise InputError(
            f"--choose takes {MAX_ANOMALIES} anomalous slides at most, there are {n_anomalous}: with more the choice "
            "is fitted to anomalies that are known already; keep the others for `uadray evaluate`"
        )
    if n_anomalous < MIN_ANOMALIES:
        raise InputError(f"--choose needs at least {MIN_ANOMALIES} anomalous slides; there are {n_anomalous}")
    if n_normals < MIN_NORMALS:
        raise InputError(f"--choose needs at least {MIN_NORMALS} normal slides, one a patient; there are {n_normals}")


@dataclass(frozen=True)
class _Compared:
    """A method on all folds.

    Attributes:
        above: [anomalies, normals] 1 where the anomalous slide scores higher, 1/2 where they score the same, else 0.
        called: the share of anomalous slides that are called; None where alpha needs more slides than the folds have.
        false_alarms: the share of normal slides that the other folds call; None likewise.
    """

    above: Floats
    called: float | None
    false_alarms: float | None


def _compared(
    normals: Sequence[SlideSquares], anomalies: Sequence[SlideSquares], config: AggregationConfig, alpha: float
) -> _Compared:
    fold = np.arange(len(normals)) % FOLDS
    looked, anomalous = [each.of(config) for each in normals], [each.of(config) for each in anomalies]
    above, n_called = np.empty((len(anomalies), len(normals))), np.zeros(len(anomalies))
    alarms = np.empty(len(normals))
    for k in range(FOLDS):
        known, held = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        reference = reference_of([looked[i] for i in known], config)
        of_normals, of_anomalies = (
            np.array([score_of(each, config, reference=reference) for each in slides]) for slides in (looked, anomalous)
        )
        above[:, held] = (np.sign(of_anomalies[:, None] - of_normals[held]) + 1) / 2
        n_called += p_values(of_anomalies, of_normals[known]) <= alpha
        alarms[held] = p_values(of_normals[held], of_normals[known]) <= alpha
    if np.bincount(fold).max() > len(normals) - normals_needed(alpha):
        return _Compared(above, None, None)
    return _Compared(above, float(n_called.mean()) / FOLDS, float(alarms.mean()))


def _figures(method: Method, compared: _Compared, default: _Compared) -> MethodFigures:
    difference = compared.above - default.above
    return MethodFigures(
        method=method, auroc=float(compared.above.mean()), auroc_se=standard_error(compared.above),
        ahead=float(difference.mean()), ahead_se=standard_error(difference),
        called=compared.called, false_alarms=compared.false_alarms,
    )  # fmt: skip


def standard_error(pairs: Floats) -> float:
    """Of the mean of values of pairs [m, n] of independent samples (DeLong et al. 1988, eq. 5 and 6)."""
    return math.sqrt(sum(np.var(pairs.mean(axis), ddof=1) / pairs.shape[1 - axis] for axis in (0, 1)))
