"""A part of a slide through the stages: whole, or some tiles at a time where the detector searches."""

from typing import Any

import numpy as np
import pytest
from toy_search import CountedSearch, searching

from uadray.screening.evidence_places import LOOKED_AT
from uadray.serving.jobs.scoring import StageDetector
from uadray.serving.scores import Scores, Wanted
from uadray.serving.stages.loaded_stages import scored_at_once
from uadray.tiles.images import Pixels

TILES = np.random.default_rng(0).integers(0, 256, (150, 16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize(("at_once", "expected"), [(None, [150]), (64, [64, 64, 22])])
def test_scores_and_evidence_are_those_of_the_whole_part(at_once: int | None, expected: list[int]) -> None:
    detector, sent = searching(CountedSearch()), list[int]()

    def score(bundle: Any, pixels: Pixels, wanted: Wanted) -> Scores:
        sent.append(len(pixels))
        return scored_at_once(detector, [(pixels, wanted)])[0]

    bundle: Any = None
    scored = StageDetector(bundle, score, at_once)(TILES)
    assert sent == expected
    whole = detector(TILES)
    np.testing.assert_allclose(scored.score, whole.score, atol=1e-6)
    best = np.argsort(-whole.score)[:LOOKED_AT].tolist()
    for ours, theirs in zip(scored.pictures(best), whole.pictures(best), strict=True):
        assert ours is not None
        np.testing.assert_array_equal(ours, theirs)
