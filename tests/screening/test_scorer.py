"""The scoring actor, called as Ray calls it: a part in, a part out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch

from uadray.bench.slides import write_tiny_bundle
from uadray.detectors import precision
from uadray.detectors.detector import Scored
from uadray.schemas import TILE_SCORES, TILES
from uadray.screening.evidence_places import CANDIDATES
from uadray.screening.parts import from_ipc, part_row, pixels_of
from uadray.screening.scorer import PartScorer
from uadray.tiles.cells import cells_of

N, SIDE = 20, 8


def no_maps(rows: Sequence[int]) -> npt.NDArray[np.float32]:
    """No page shows them."""
    raise AssertionError("a screening has no use for residual maps")


class Brightness:
    """A detector whose scores are mean colours and whose reconstructions are negatives."""

    shown = 0

    def __call__(self, images: npt.NDArray[np.uint8]) -> Scored:
        return Scored(images.mean((1, 2, 3)), lambda rows: self.pictures(images[list(rows)]), no_maps)

    def pictures(self, images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        self.shown += len(images)
        return images, 255 - images


class Failing(Brightness):
    """It scores so many calls, and then raises; or what it is told to."""

    def __init__(self, calls: int, error: Exception, *, is_broken: bool = False) -> None:
        self.calls, self.error, self.is_broken = calls, error, is_broken

    def __call__(self, images: npt.NDArray[np.uint8]) -> Scored:
        is_known = len(images) == 2 and images.shape[1] == 64
        if self.calls <= 0 and (self.is_broken or not is_known):
            raise self.error
        self.calls -= 1
        return super().__call__(images)


class Patchy(Brightness):
    """A detector with cells: the mean colours of a tile's quarters, the first of which may be no number."""

    def __call__(self, images: npt.NDArray[np.uint8]) -> Scored:
        scored, half = super().__call__(images), images.shape[1] // 2
        cells = images.reshape(len(images), 2, half, 2, half, 3).mean((2, 4, 5), dtype=np.float32)
        return Scored(scored.score, scored.pictures, scored.maps, np.where(cells == 0, np.nan, cells))


class Sightless(Brightness):
    """A detector without a generator."""

    def pictures(self, images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], Any]:
        return images, None


def _several(*detectors: Brightness, threads: int = 1) -> PartScorer:
    made = iter(detectors)
    bundles = {str(i): None for i in range(len(detectors))}
    return PartScorer(bundles, "cpu", threads, load=lambda *_, **__: next(made))  # type: ignore[arg-type, return-value]


@pytest.fixture
def scorer() -> PartScorer:
    return PartScorer({"": None}, "cpu", 1, load=lambda *_, **__: Brightness())  # type: ignore[arg-type, return-value]


def _part(number: int, images: npt.NDArray[np.uint8], slide: int = 0) -> pa.Table:
    """Tiles so far apart that each lies in a region of its own."""
    n = len(images)
    zeros, sides = [0] * n, [SIDE] * n
    xs = [100 * SIDE * (1000 * number + i) for i in range(n)]
    ids = [f"{number}-{i}" for i in range(n)]
    columns = [ids, [""] * n, xs, zeros, sides, sides, [1.0] * n, ["tissue"] * n]
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
    assert sent[:CANDIDATES] == every[:CANDIDATES].tolist()
    assert len(sent) < 3 * CANDIDATES  # what cannot be among the best is not encoded
    assert len(_pictures(rows[0])) == CANDIDATES
    scores = [from_ipc(row["scores"][0].as_py()[0])["score"].to_pylist() for row in rows]
    assert scores == images.mean((2, 3, 4)).tolist()


def test_a_part_that_comes_again_is_not_its_own_rival(scorer: PartScorer) -> None:
    images = np.full((N, SIDE, SIDE, 3), 9, np.uint8)
    first, again = scorer(_part(0, images)), scorer(_part(0, images))
    other = scorer(_part(0, images, slide=1))
    assert len(_pictures(first)) == len(_pictures(again)) == len(_pictures(other)) == CANDIDATES


def test_pictures_are_made_of_the_tiles_that_are_shown_alone(scorer: PartScorer) -> None:
    images = np.arange(N, dtype=np.uint8)[:, None, None, None] * np.ones((1, SIDE, SIDE, 3), np.uint8)
    (best, *_), first = _pictures(scorer(_part(0, images))), scorer.detectors[0].detector.shown  # type: ignore[attr-defined]
    assert first == CANDIDATES
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


@pytest.mark.parametrize("threads", [1, 3])
def test_cells_stay_with_their_tiles(threads: int) -> None:
    """A tile with an error has none, nor one with a cell that is no number; a detector without adds no column."""
    images = np.random.default_rng(5).integers(1, 256, (N, SIDE, SIDE, 3), np.uint8)
    images[3, : SIDE // 2, : SIDE // 2] = 0
    errors = [None] * N
    errors[7] = "broken"  # type: ignore[call-overload]
    part = _part(0, images)
    part = part.set_column(part.column_names.index("errors"), "errors", pa.array([json.dumps(errors)]))
    row = _several(Patchy(), Brightness(), threads=threads)(part)
    with_some, without = (from_ipc(data) for data in row["scores"][0].as_py())
    assert without.schema == TILE_SCORES
    assert with_some.schema.names == [*TILE_SCORES.names, "cells"]
    cells = cells_of(with_some)
    assert cells is not None
    expected = images.reshape(N, 2, SIDE // 2, 2, SIDE // 2, 3).mean((2, 4, 5))
    expected[[3, 7]] = np.nan
    np.testing.assert_allclose(cells, expected, rtol=1e-3)
    assert with_some["score"].null_count == 1  # the tile with a bad cell has its score


def test_each_bundle_has_the_scores_and_pictures_that_it_has_alone(scorer: PartScorer) -> None:
    """Its evidence does not depend on what the others have seen."""
    images = np.random.default_rng(3).integers(0, 256, (2, N, SIDE, SIDE, 3), np.uint8)

    class Darkness(Brightness):
        def __call__(self, images: npt.NDArray[np.uint8]) -> Scored:
            scored = super().__call__(images)
            return Scored(-scored.score, scored.pictures, scored.maps)

    both, alone = _several(Brightness(), Darkness()), _several(Darkness())
    for number, part in enumerate(images):
        together, first, second = (each(_part(number, part)) for each in (both, scorer, alone))
        for column in ("scores", "evidence"):
            assert together[column][0].as_py() == [each[column][0].as_py()[0] for each in (first, second)]


def test_a_detector_that_fails_leaves_the_others_their_scores() -> None:
    scorer = _several(Brightness(), Failing(2, ValueError("no such tile")))
    images = np.full((N, SIDE, SIDE, 3), 9, np.uint8)
    well, ill = scorer(_part(0, images)), scorer(_part(1, images))
    assert json.loads(well["header"][0].as_py())["failures"] == [None, None]
    assert json.loads(ill["header"][0].as_py())["failures"] == [
        None, ["scoring", "the detector failed: ValueError: no such tile"],
    ]  # fmt: skip
    scores, nothing = ill["scores"][0].as_py()
    assert from_ipc(scores)["score"].to_pylist() == [9.0] * N
    assert nothing == b""


@pytest.mark.parametrize(
    ("detectors", "reason", "message"),
    [
        ([Failing(1, ValueError("a")), Failing(1, ValueError("b"))], "scoring",
         "the detector failed: ValueError: a; the detector failed: ValueError: b"),
        ([Brightness(), Failing(1, RuntimeError("CUDA"), is_broken=True)], "device", "the detector failed: RuntimeErr"),
        ([Failing(1, ValueError("a")), Failing(1, MemoryError())], "memory", "the detector failed: not enough memory"),
    ],
)  # fmt: skip
def test_what_ends_a_slide_for_all_bundles(detectors: list[Brightness], reason: str, message: str) -> None:
    """All detectors fail, or the system does: a slide that is to be tried again is tried again with every bundle."""
    row = _several(*detectors)(_part(0, np.full((N, SIDE, SIDE, 3), 9, np.uint8)))
    header = json.loads(row["header"][0].as_py())
    assert (row["part"][0].as_py(), header["reason"]) == (-1, reason)
    assert header["message"].startswith(message)


@pytest.mark.parametrize("threads", [1, 2])
def test_evidence_of_a_detector_without_pictures_is_the_tile_alone(threads: int) -> None:
    images = np.random.default_rng(4).integers(0, 256, (N, SIDE, SIDE, 3), np.uint8)
    evidence = _pictures(_several(Sightless(), threads=threads)(_part(0, images)))
    assert [picture["reconstruction"] for picture in evidence] == [None] * CANDIDATES
    assert all(picture["tile"] for picture in evidence)


def test_tiles_with_an_error_or_a_flag_have_no_score(scorer: PartScorer) -> None:
    images = np.full((4, SIDE, SIDE, 3), 9, np.uint8)
    part = _part(0, images)
    for name, values in (("errors", [None, "cut off", None, None]), ("flags", [None, None, "pen", None])):
        at = part.schema.get_field_index(name)
        part = part.set_column(at, part.schema.field(at), pa.array([json.dumps(values)]))
    row = scorer(part)
    table = from_ipc(row["scores"][0].as_py()[0])
    assert table["score"].to_pylist() == [9.0, None, None, 9.0]
    assert table["mean_green"].null_count == 2
    assert table["error"].to_pylist() == [None, "cut off", "not scored: pen", None]
    assert table["flag"].to_pylist() == [None, None, "pen", None]
    assert json.loads(row["header"][0].as_py())["errors"] == 1


def test_pixels_are_not_copied_and_a_slice_has_its_own() -> None:
    images = np.arange(2 * N * SIDE * SIDE * 3, dtype=np.uint8).reshape(2, N, SIDE, SIDE, 3)
    one = _part(0, images[0])
    assert pixels_of(one).address == images[0].ctypes.data
    both = pa.concat_tables([one, _part(1, images[1])]).combine_chunks()
    assert [pixels_of(both.slice(i, 1)).to_pybytes() for i in (0, 1)] == [part.tobytes() for part in images]
    assert pixels_of(part_row(0, -1, header={})).size == 0


def test_bfloat16_is_for_detectors_that_allow_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "is_fast", lambda device: True)
    uri = str(tmp_path / "bundle")
    bundles = {uri: write_tiny_bundle(uri)}
    images = np.random.default_rng(4).integers(0, 256, (N, SIDE, SIDE, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    full, lowered = (
        from_ipc(PartScorer(bundles, "cpu", 2, precision=each)(_part(0, images))["scores"][0].as_py()[0])
        for each in ("float32", "bfloat16")
    )
    expected, found = (table["score"].to_numpy() for table in (full, lowered))
    assert 0 < np.abs(found - expected).max() < 2 * precision.TOLERANCE * expected.mean()
    assert lowered["mean_green"].equals(full["mean_green"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: what runs on one was not tested")
def test_an_actor_on_a_gpu_sends_the_rows_of_one_on_a_cpu(tmp_path: Path) -> None:
    uri = str(tmp_path / "bundle")
    bundles = {uri: write_tiny_bundle(uri)}
    images = np.random.default_rng(5).integers(0, 256, (N, SIDE, SIDE, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    ours, theirs = (
        from_ipc(PartScorer(bundles, device, 2)(_part(0, images))["scores"][0].as_py()[0]) for device in ("cuda", "cpu")
    )
    np.testing.assert_allclose(ours["score"].to_numpy(), theirs["score"].to_numpy(), rtol=1e-4, atol=1e-5)
    assert ours.drop_columns(["score"]).equals(theirs.drop_columns(["score"]))
