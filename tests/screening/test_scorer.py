"""The scoring actor, called as Ray Data calls it: a part in, a part out."""

import json
import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from uadray.detectors.detector import Scored
from uadray.schemas import TILES
from uadray.screening.parts import from_ipc, part_row, pixels_of
from uadray.screening.scorer import PartScorer, trivial_scores
from uadray.screening.slide_result import EVIDENCE_TILES

N, SIDE = 20, 8


class Brightness:
    """A detector whose scores are mean colours and whose reconstructions are negatives."""

    shown = 0

    def __call__(self, images: npt.NDArray[np.uint8]) -> Scored:
        residual = np.zeros((len(images), 2, 2), np.float32)
        return Scored(images.mean((1, 2, 3)), residual, lambda rows: self.pictures(images[list(rows)]))

    def pictures(self, images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        self.shown += len(images)
        return images, 255 - images


@pytest.fixture
def scorer() -> PartScorer:
    return PartScorer({"": None}, "cpu", 1, load=lambda *_, **__: Brightness())  # type: ignore[arg-type, return-value]


def _part(number: int, images: npt.NDArray[np.uint8], slide: int = 0) -> pa.Table:
    n = len(images)
    zeros, sides = [0] * n, [SIDE] * n
    ids = [f"{number}-{i}" for i in range(n)]
    columns = [ids, [""] * n, zeros, zeros, sides, sides, [1.0] * n, ["tissue"] * n]
    tiles = pa.table(dict(zip(TILES.names, columns, strict=True)), schema=TILES)
    none = json.dumps([None] * n)
    return part_row(slide, number, header={"n_parts": 3}, tiles=tiles, pixels=images, errors=none, flags=none)


def _pictures(row: pa.Table) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = from_ipc(row["evidence"][0].as_py()[0]).to_pylist()
    return found


def test_pictures_of_all_parts_hold_the_best_of_the_slide(scorer: PartScorer) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, N, 1, 1, 3), np.uint8).repeat(SIDE, 2).repeat(SIDE, 3)
    rows = [scorer(_part(i, part)) for i, part in enumerate(images)]
    sent = sorted((p["score"] for row in rows for p in _pictures(row)), reverse=True)
    every = np.sort(images.mean((2, 3, 4)).ravel())[::-1]
    assert sent[:EVIDENCE_TILES] == every[:EVIDENCE_TILES].tolist()
    assert len(sent) < 3 * EVIDENCE_TILES  # what cannot be among the best is not encoded
    assert len(_pictures(rows[0])) == EVIDENCE_TILES
    scores = [from_ipc(row["scores"][0].as_py()[0])["score"].to_pylist() for row in rows]
    assert scores == images.mean((2, 3, 4)).tolist()


def test_a_part_that_comes_again_is_not_its_own_rival(scorer: PartScorer) -> None:
    images = np.full((N, SIDE, SIDE, 3), 9, np.uint8)
    first, again = scorer(_part(0, images)), scorer(_part(0, images))
    other = scorer(_part(0, images, slide=1))
    assert len(_pictures(first)) == len(_pictures(again)) == len(_pictures(other)) == EVIDENCE_TILES


def test_pictures_are_made_of_the_tiles_that_are_shown_alone(scorer: PartScorer) -> None:
    images = np.arange(N, dtype=np.uint8)[:, None, None, None] * np.ones((1, SIDE, SIDE, 3), np.uint8)
    (best, *_), first = _pictures(scorer(_part(0, images))), scorer.detectors[0].detector.shown  # type: ignore[attr-defined]
    assert first == EVIDENCE_TILES
    tile, negative = (
        cv2.imdecode(np.frombuffer(best[k], np.uint8), cv2.IMREAD_COLOR) for k in ("tile", "reconstruction")
    )
    assert (tile.mean(), negative.mean()) == (pytest.approx(N - 1, abs=1), pytest.approx(256 - N, abs=1))
    scorer(_part(1, images // 2))
    assert scorer.detectors[0].detector.shown == first  # type: ignore[attr-defined]  # none is above the floor


@pytest.mark.parametrize("threads", [2, 3, 64])
def test_threads_change_nothing(scorer: PartScorer, threads: int) -> None:
    images = np.random.default_rng(2).integers(0, 256, (97, SIDE, SIDE, 3), np.uint8)
    shared = PartScorer({"": None}, "cpu", threads, load=lambda *_, **__: Brightness())  # type: ignore[arg-type, return-value]
    ours, theirs = (each(_part(0, images)).drop_columns(["header"]) for each in (shared, scorer))
    assert ours.equals(theirs)


def test_pixels_are_not_copied_and_a_slice_has_its_own() -> None:
    images = np.arange(2 * N * SIDE * SIDE * 3, dtype=np.uint8).reshape(2, N, SIDE, SIDE, 3)
    one = _part(0, images[0])
    assert pixels_of(one).address == images[0].ctypes.data
    both = pa.concat_tables([one, _part(1, images[1])]).combine_chunks()
    assert [pixels_of(both.slice(i, 1)).to_pybytes() for i in (0, 1)] == [part.tobytes() for part in images]
    assert pixels_of(part_row(0, -1, header={})).size == 0


@pytest.mark.parametrize("side", [8, 100, 300])
def test_trivial_scores_are_hsv_saturation_and_green(side: int) -> None:
    images = np.random.default_rng(1).integers(0, 256, (4, side, side, 3), np.uint8)
    images[0], images[1] = 200, (200, 100, 150)
    saturation, green = trivial_scores(images)
    high, low = images.max(-1).astype(float), images.min(-1).astype(float)
    tolerance = 0.002 if side < 128 else 0.03  # not every pixel of a larger one is looked at
    np.testing.assert_allclose(saturation, ((high - low) / np.maximum(high, 1)).mean((1, 2)), atol=tolerance)
    np.testing.assert_allclose(green, images[..., 1].mean((1, 2)) / 255, atol=tolerance)
    assert math.isclose(saturation[0], 0)
    assert math.isclose(saturation[1], 0.5, abs_tol=0.002)
