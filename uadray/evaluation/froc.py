"""Detections of many slides -> FROC as Camelyon16 defines it, slide by slide.

After the evaluation script that is published with the data set (see `evaluation.lesions`):

- a detection in no lesion is a false alarm, and so is each detection of a slide without lesions;
- one in isolated tumour cells is neither true nor false;
- of several in one lesion the most confident counts, once;
- at a threshold, false alarms are averaged over all slides, normal and tumour alike, and sensitivity is the share of
  all lesions; the score is the mean sensitivity at 1/4, 1/2, 1, 2, 4 and 8 false alarms a slide.

The script reads the sensitivity at the first threshold with at least so many false alarms; where thresholds with fewer
are all there is, at the last. Published figures often interpolate between thresholds instead, as users of the first
version of the script had to: `score_interpolated`. Both versions agree in all else, but for a threshold that the first
one leaves out where each lesion is found, and coordinates that it cuts off and does not round.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from uadray.evaluation.lesions import LesionMask

Floats = npt.NDArray[np.float64]

FALSE_ALARMS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""A slide, at which sensitivity is read."""

MOST_FALSE = 2**22
"""False alarms that are kept, the most confident ones: exact for half a million slides at 8 a slide."""

CURVE_POINTS = 500

DRAWS = 1000
"""Of the bootstrap; `FEWEST_DRAWS` where there are millions of detections."""

FEWEST_DRAWS = 200

MOST_COUNTED = 200_000_000
"""Detections of all draws together: some seconds."""

MOST_DRAWN = 100_000
"""False alarms up to which the bootstrap counts all of them; above, four times as many as the score takes."""


@dataclass(frozen=True, eq=False)
class Hits:
    """What the detections of one slide are.

    Attributes:
        false: [m], confidences of false alarms.
        found: [n], of each lesion the confidence that it is found with; -inf where it is missed.
        ignored: detections in isolated tumour cells.
    """

    false: Floats
    found: Floats
    ignored: int


def hits(x_level0_px: Floats, y_level0_px: Floats, confidence: Floats, mask: LesionMask | None) -> Hits:
    """Compare the detections [n] of a slide with its lesions; None for a slide that has none."""
    if mask is None:
        return Hits(np.asarray(confidence, np.float64), np.empty(0), 0)
    number = mask.at(x_level0_px, y_level0_px)
    found = np.full(len(mask.is_isolated), -np.inf)
    np.maximum.at(found, number, confidence)
    is_isolated = mask.is_isolated[number]
    return Hits(np.asarray(confidence[number == 0], np.float64), found[1:][~mask.is_isolated[1:]],
                int(is_isolated.sum()))  # fmt: skip


@dataclass(eq=False)
class Froc:
    """The detections of slides seen so far; what it holds does not grow with their tiles."""

    groups: list[str] = field(default_factory=list)
    lesions: list[int] = field(default_factory=list)
    isolated: int = 0
    ignored: int = 0
    _false: list[tuple[Floats, npt.NDArray[np.int32]]] = field(default_factory=list)
    _found: list[tuple[Floats, npt.NDArray[np.int32]]] = field(default_factory=list)
    _kept: int = 0

    def add(self, of_slide: Hits, *, isolated: int = 0, group: str | None = None) -> None:
        """Take one slide.

        Args:
            of_slide: its detections.
            isolated: how many of its lesions are isolated tumour cells.
            group: slides of one patient are drawn together in the bootstrap; None for a slide by itself.
        """
        slide = len(self.lesions)
        self.groups.append(f"slide {slide}" if group is None else f"patient {group}")
        self.lesions.append(len(of_slide.found))
        self.isolated += isolated
        self.ignored += of_slide.ignored
        for store, values in ((self._false, of_slide.false), (self._found, of_slide.found)):
            store.append((values, np.full(len(values), slide, np.int32)))
        self._kept += len(of_slide.false)
        if self._kept > 2 * MOST_FALSE:
            self._forget()

    def _forget(self) -> None:
        """Keep the most confident false alarms alone."""
        false, slide = _joined(self._false)
        kept = np.argpartition(false, len(false) - MOST_FALSE)[-MOST_FALSE:]
        self._false, self._kept = [(false[kept], slide[kept])], MOST_FALSE

    def figures(self) -> dict[str, Any] | None:
        """Score, sensitivities and curve; None where there is no lesion to find.

        Returns:
            `score`, its `score_ci95` (percentile bootstrap over patients or slides; None where fewer than two have
            lesions), `score_interpolated`, `sensitivities` by false alarms a slide, `curve` of
            `[false alarms a slide, sensitivity]`, `slides`, `lesions`, `isolated`, and `ignored` detections in these.
        """
        if not sum(self.lesions):
            return None
        steps = _steps(_joined(self._false), _joined(self._found))
        n_slides, n_lesions = len(self.lesions), sum(self.lesions)
        false, sensitivity = steps.curve(np.ones(n_slides), np.array(self.lesions))
        read = sensitivities(false, sensitivity)
        return {
            "score": float(read.mean()),
            "score_ci95": self._interval(steps),
            "score_interpolated": float(np.interp(FALSE_ALARMS, false, sensitivity).mean()),
            "sensitivities": {f"{target:g}": float(value) for target, value in zip(FALSE_ALARMS, read, strict=True)},
            "curve": _thinned(false, sensitivity),
            "slides": n_slides,
            "lesions": n_lesions,
            "isolated": self.isolated,
            "ignored": self.ignored,
        }  # fmt: skip

    def _interval(self, steps: "_Steps", *, seed: int = 0) -> list[float] | None:
        """95 % of the scores over patients that are drawn with replacement."""
        names, member = np.unique(self.groups, return_inverse=True)
        lesions = np.array(self.lesions)
        if len(np.unique(member[lesions > 0])) < 2:
            return None
        rng, scores = np.random.default_rng(seed), list[float]()
        cut = steps.until(max(MOST_DRAWN, 4 * FALSE_ALARMS[-1] * len(lesions)))
        draws = max(FEWEST_DRAWS, min(DRAWS, MOST_COUNTED // max(len(cut.slide), 1)))
        while len(scores) < draws:
            weight = rng.multinomial(len(names), np.full(len(names), 1 / len(names)))[member].astype(np.float64)
            if weight @ lesions:
                scores.append(float(sensitivities(*cut.curve(weight, lesions)).mean()))
        return [float(q) for q in np.quantile(scores, [0.025, 0.975])]


def sensitivities(false: Floats, sensitivity: Floats) -> Floats:
    """The sensitivity at `FALSE_ALARMS`, as the script reads it off a curve in ascending order that begins at 0."""
    place = np.searchsorted(false, FALSE_ALARMS, side="left")
    return sensitivity[np.minimum(place, len(sensitivity) - 1)]


@dataclass(frozen=True, eq=False)
class _Steps:
    """All detections in descending order of confidence, from which curves of weighted slides are made.

    Attributes:
        slide: [n], number of the slide.
        is_false: [n], whether it is a false alarm, or else the first to find its lesion.
        ends: the last detection of each confidence.
    """

    slide: npt.NDArray[np.int32]
    is_false: npt.NDArray[np.bool_]
    ends: npt.NDArray[np.int64]

    def until(self, n_false: float) -> "_Steps":
        """The steps up to about so many false alarms, which no curve of few draws goes beyond."""
        n = int(np.searchsorted(np.cumsum(self.is_false), n_false)) + 1
        ends = self.ends[: int(np.searchsorted(self.ends, n)) + 1]
        stop = int(ends[-1]) + 1 if len(ends) else 0
        return _Steps(self.slide[:stop], self.is_false[:stop], ends)

    def curve(self, weight: Floats, lesions: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
        """False alarms a slide and sensitivity at each threshold, from no detection on; slides count by `weight`."""
        w = weight[self.slide]
        counts = [np.append(0.0, np.cumsum(w * of)[self.ends]) for of in (self.is_false, ~self.is_false)]
        return counts[0] / weight.sum(), counts[1] / (weight @ lesions)


def _steps(false: tuple[Floats, npt.NDArray[np.int32]], found: tuple[Floats, npt.NDArray[np.int32]]) -> _Steps:
    """The steps of false alarms and found lesions, each with confidences and slides; missed lesions make none."""
    is_found = np.isfinite(found[0])
    confidence = np.concatenate([false[0], found[0][is_found]])
    order = np.argsort(-confidence, kind="stable")
    slide = np.concatenate([false[1], found[1][is_found]])[order]
    is_last = np.append(np.diff(confidence[order]) != 0, True)[: len(order)]
    return _Steps(slide, (np.arange(len(order)) < len(false[0]))[order], np.flatnonzero(is_last))


def _joined(parts: list[tuple[Floats, npt.NDArray[np.int32]]]) -> tuple[Floats, npt.NDArray[np.int32]]:
    return np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts])


def _thinned(false: Floats, sensitivity: Floats) -> list[list[float]]:
    """The curve up to the first point at 8 false alarms, in at most `CURVE_POINTS` points.

    A point is left out where neither false alarms nor sensitivity begin or end to rise.
    """
    stop = min(int(np.searchsorted(false, FALSE_ALARMS[-1])) + 1, len(false))
    points = np.column_stack([false, sensitivity])[:stop]
    rises = np.diff(points, axis=0) > 0
    is_straight = (rises[1:] == rises[:-1]).all(1) & (rises[1:].sum(1) == 1)
    kept = np.flatnonzero(np.concatenate([[True], ~is_straight, [True]])[: len(points)])
    if len(kept) > CURVE_POINTS:
        kept = kept[np.unique(np.linspace(0, len(kept) - 1, CURVE_POINTS).round().astype(int))]
    return [[float(x), float(y)] for x, y in points[kept].round(6)]
