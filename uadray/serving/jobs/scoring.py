"""The parts of a slide through the stages: the detector that a worker hands them to, and the scores that come back."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from uadray.detectors.description import BundleDescription
from uadray.detectors.detector import Scored
from uadray.errors import UnreachableError
from uadray.screening.actor_detectors import joined, shares_of
from uadray.screening.bundles import ScreeningBundle
from uadray.screening.evidence_places import LOOKED_AT
from uadray.serving.registry import RegisteredBundle
from uadray.serving.scores import Scores, TilePictures, Wanted
from uadray.serving.stages.loaded_stages import searches
from uadray.tiles.images import Pixels

ScoreNow = Callable[[RegisteredBundle, Pixels, Wanted], Scores]
"""Scores of RGB tiles, waited for. Raises `UnreachableError` where the stages are full or away."""

PATIENCE_S = 60.0
"""Stages that are full or away are waited for so long: a replica that died is replaced by then."""

AGAIN_S = 0.5

SEARCHED_AT_ONCE = 64
"""Tiles of a part that are sent at a time to a detector that searches: between them come tiles of clients who wait, and
it is noticed that a job has ended."""


@dataclass(frozen=True)
class StageDetector:
    """A bundle in the stages, as `PartScorer` calls a detector.

    Attributes:
        bundle: that scores.
        score: asks the stages.
        at_once: tiles that are sent together; None for all of a part.
    """

    bundle: RegisteredBundle
    score: ScoreNow
    at_once: int | None = None

    def __call__(self, images: Pixels) -> Scored:
        """Score RGB tiles [N, tile, tile, 3].

        Raises:
            UnreachableError: the stages have been full or away for `PATIENCE_S`.
        """
        step, wanted = self.at_once or len(images), Wanted(evidence=LOOKED_AT)
        if len(images) <= step:
            return _told(self._patiently(images, wanted))
        return joined([_told(self._patiently(share, wanted)) for share in shares_of(images, step)], step)

    def _patiently(self, images: Pixels, wanted: Wanted) -> Scores:
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.score(self.bundle, images, wanted)
            except UnreachableError:
                if time.monotonic() > until:
                    raise
            time.sleep(AGAIN_S)


def stage_loader(bundles: Sequence[ScreeningBundle], score: ScoreNow) -> Callable[..., StageDetector]:
    """What `PartScorer` loads its detectors with: nothing is loaded, the stages have them."""
    registered = {
        each.uri: RegisteredBundle(each.name, each.uri, each.bundle, each.calibration) for each in bundles
    }  # fmt: skip

    def load(uri: str, bundle: BundleDescription, **_: object) -> StageDetector:
        return StageDetector(registered[uri], score, SEARCHED_AT_ONCE if searches(bundle) else None)

    return load


def _told(scores: Scores) -> Scored:
    return Scored(scores.score, _of_evidence(scores.pictures), _no_maps, scores.cells)


def _of_evidence(pictures: TilePictures | None) -> Callable[[Sequence[int]], tuple[Pixels, Pixels | None]]:
    """Gives the pictures of tiles that are among the evidence."""

    def chosen(rows: Sequence[int]) -> tuple[Pixels, Pixels | None]:
        if pictures is None:
            raise ValueError("no pictures were asked for")
        places = {int(row): place for place, row in enumerate(pictures.rows)}
        at = [places[row] for row in rows]
        return pictures.seen[at], None if pictures.reconstruction is None else pictures.reconstruction[at]

    return chosen


def _no_maps(rows: Sequence[int]) -> npt.NDArray[np.float32]:
    raise ValueError(f"maps of {len(rows)} tiles were not asked for")


def seconds_left(done: int, of: int, seconds: float) -> float | None:
    """How long the rest takes at the pace so far; None where nothing is done.

    >>> seconds_left(25, 100, 10.0)
    30.0
    """
    return None if not done else max(0.0, math.ceil((of - done) * seconds / done * 10) / 10)
