"""All ways of making slide scores, compared on a screening's tile scores.

What the methods need to know of normal tiles (`decisions.tile_reference`) is of the normal slides that are evaluated:
the calibration keeps it for its own method alone. It is a handful of numbers of many slides, and the same for normal
and anomalous ones, but a figure of few slides is a little too good for that. To choose a method, use
`uadray calibrate --choose`: a method that is picked from this table has been fitted to the slides it is reported on.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from uadray.decisions.aggregation import METHODS, new_aggregation, reference_of, score_of
from uadray.decisions.choosing import SlideSquares, slide_squares
from uadray.decisions.false_alarms import normals_needed
from uadray.decisions.p_values import p_values
from uadray.errors import UadrayError
from uadray.evaluation.arrays import Bools, Floats
from uadray.evaluation.delong import auroc_interval
from uadray.evaluation.detection import auroc
from uadray.evaluation.judged import Judged
from uadray.exports.source import sources
from uadray.storage import objects
from uadray.tiles.spec import TileSpec

MOST_REFERENCE_SLIDES, MOST_REFERENCE_TILES = 100, 1_000_000
"""Of the normal slides, the first so many tell what normal tiles are: these are kept in memory, the others are not."""


MOST_SLIDES = 5000
"""Of more slides than these the tiles are not read for a comparison."""


class EvaluatedSlide(NamedTuple):
    """A slide that has a label and a score.

    Attributes:
        is_anomalous: by its label.
        group: its patient, or the slide itself.
        tiles: rows of `TILE_SCORES`.
    """

    is_anomalous: bool
    group: str
    tiles: pa.Table


@dataclass(frozen=True)
class TiledSlides:
    """The judged slides of a screening with their tiles, read anew each time they are gone through."""

    folder: str
    judged: Judged
    read: Callable[[str], pa.Table]

    def __iter__(self) -> Iterator[EvaluatedSlide]:
        """One slide after the other."""
        slides = zip(self.judged.slide_ids, self.judged.anomalous.tolist(), self.judged.groups.tolist(), strict=True)
        for slide_id, is_anomalous, group in slides:
            yield EvaluatedSlide(
                is_anomalous, group, self.read(objects.join(self.folder, "tiles", f"{slide_id}.parquet"))
            )


def figures_of_aggregations(folder: str, judged: Judged, *, read: Callable[[str], pa.Table]) -> dict[str, Any]:
    """The comparison of methods on the slides of a screening.

    Args:
        folder: of the screening, or of one of its bundles.
        judged: its slides.
        read: rows of `TILE_SCORES` from their URI.

    Returns:
        `aggregations`, see `compared_methods`; empty where there is nothing to compare, and `aggregations_note` says
        why.
    """
    if len(judged.rows) > MOST_SLIDES:
        why = f"{len(judged.rows)} slides; methods are compared on {MOST_SLIDES} at most, evaluate a part of them"
        return {"aggregations": [], "aggregations_note": why}
    alphas = [float(decision["alpha"]) for decision in judged.decisions if decision.get("alpha") is not None]
    try:
        slides = TiledSlides(folder, judged, read)
        return {"aggregations": compared_methods(slides, alpha=min(alphas, default=0.05), spec=_spec_of(folder))}
    except UadrayError as error:
        return {"aggregations": [], "aggregations_note": str(error)}


def _spec_of(folder: str) -> TileSpec | None:
    """How tiles were cut, where the screening or its bundle tells."""
    try:
        (source,) = sources(folder)
    except (UadrayError, ValueError):
        return None
    return source.spec


def compared_methods(
    slides: Iterable[EvaluatedSlide], *, alpha: float, spec: TileSpec | None = None
) -> list[dict[str, Any]]:
    """Figures of each method, best first.

    Args:
        slides: gone through twice, one slide's tiles in memory at a time, and those of some normal slides.
        alpha: share of normal slides that may be called.
        spec: how tiles were cut, see `squares_of`.

    Returns:
        Of each `method`, `auroc` and its interval `ci95`, `called`: the share of anomalous slides whose conformal
        p-value among the normal ones is at most alpha (None where there are too few of these), `n_normal` and
        `n_anomalous`. Nothing where one of the classes is missing.
    """
    configs = [new_aggregation(method) for method in METHODS]
    normals = _reference_slides(slides, spec)
    if not normals:
        return []
    references = [reference_of([each.of(config) for each in normals], config) for config in configs]
    del normals
    rows, truth, groups = list[list[float]](), list[bool](), list[str]()
    for slide in slides:
        tiles = _scored(slide.tiles)
        if not len(tiles):
            continue
        looked = slide_squares(tiles, spec)
        pairs = zip(configs, references, strict=True)
        rows.append([score_of(looked.of(config), config, reference=reference) for config, reference in pairs])
        truth.append(slide.is_anomalous)
        groups.append(slide.group)
    anomalous = np.array(truth, dtype=bool)
    if not anomalous.any():
        return []
    figures = [
        {"method": config.method} | _figures(np.array(scores), anomalous, groups, alpha)
        for scores, config in zip(zip(*rows, strict=True), configs, strict=True)
    ]
    return sorted(figures, key=lambda each: -each["auroc"])


def _reference_slides(slides: Iterable[EvaluatedSlide], spec: TileSpec | None) -> list[SlideSquares]:
    """The normal slides that tell what normal tiles are."""
    kept, n_tiles = list[SlideSquares](), 0
    for slide in slides:
        if slide.is_anomalous or not len(tiles := _scored(slide.tiles)):
            continue
        n_tiles += len(tiles)
        if kept and (len(kept) == MOST_REFERENCE_SLIDES or n_tiles > MOST_REFERENCE_TILES):
            break
        kept.append(slide_squares(tiles, spec))
    return kept


def _scored(tiles: pa.Table) -> pa.Table:
    """The tiles that have a score, a number."""
    return tiles.filter(pc.is_finite(tiles["score"]))


def _figures(scores: Floats, anomalous: Bools, groups: Sequence[str], alpha: float) -> dict[str, Any]:
    n_normal = int((~anomalous).sum())
    called = (p_values(scores[anomalous], scores[~anomalous]) <= alpha).mean()
    interval = auroc_interval(scores, anomalous, groups=np.array(groups, dtype=np.str_))
    return {
        "auroc": auroc(scores, anomalous),
        "ci95": interval["ci95"],
        "called": float(called) if n_normal >= normals_needed(alpha) else None,
        "n_normal": n_normal,
        "n_anomalous": int(anomalous.sum()),
    }
