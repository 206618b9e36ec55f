"""How streams follow each other: what is given back comes again, and a node that is left out ends one."""

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from uadray.cluster import stream, watched_work
from uadray.cluster.nodes import Nodes
from uadray.schemas import TILE_SCORES
from uadray.screening import assembly, results
from uadray.screening.parts import failed_part, from_ipc, part_row, to_ipc
from uadray.screening.results import scored_slides
from uadray.screening.slide_result import EVIDENCE, BundleScores, SlideResult
from uadray.slides.manifest import SlideRow
from uadray.tiles.cells import with_cells
from uadray.tiles.spec import TileSpec

ROWS = [SlideRow(f"s{i}", f"/slides/s{i}.tif") for i in range(7)]
SCORED = {"address": "10.0.0.1"}


class Described:
    """What `scored_slides` asks of a bundle."""

    tiles = TileSpec(mpp=0.5, tile_px=64)


class Streams:
    """Stands for streams on a cluster: each slide has a list of what becomes of it, stream after stream."""

    def __init__(self, faults: dict[str, list[str]]) -> None:
        self.faults, self.seen = faults, list[list[str]]()

    def __call__(self, rows: Sequence[SlideRow], reads: Sequence[Any], **_: Any) -> Iterator[SlideResult]:
        self.seen.append([row.slide_id for row in rows])
        for row in rows:
            left = self.faults.get(row.slide_id, [])
            failure = (left.pop(0), "what happened") if left else None
            yield SlideResult(row, header=SCORED | {"node_id": "b"}, failure=failure)


def _run(monkeypatch: pytest.MonkeyPatch, faults: dict[str, list[str]], **constants: int) -> tuple[Streams, list[Any]]:
    streams = Streams(faults)
    monkeypatch.setattr(results, "_streamed", streams)
    for name, value in constants.items():
        monkeypatch.setattr(results, name, value)
    monkeypatch.setattr("uadray.cluster.nodes.ray.nodes", lambda: [
        {"NodeID": name, "Alive": True, "NodeManagerAddress": name, "Resources": {"CPU": 2}} for name in "ab"
    ])  # fmt: skip
    scored = scored_slides(
        ROWS,
        bundles={"": Described()},
        config=stream.StreamConfig(),
        reads=list,
        nodes=Nodes(),  # type: ignore[arg-type]
    )
    return streams, [(r.row.slide_id, r.failure and r.failure[0], r.is_open) for r in scored]


def test_a_stream_has_so_many_slides_and_each_slide_one_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray puts every read task before the first one runs: an archive is not one stream."""
    streams, ends = _run(monkeypatch, {"s3": ["unreadable"]}, TASKS_A_STREAM=3)
    assert [len(slides) for slides in streams.seen] == [3, 3, 1]
    assert ends == [(row.slide_id, "unreadable" if row.slide_id == "s3" else None, False) for row in ROWS]


def test_what_is_given_back_comes_last_and_three_times_at_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    streams, ends = _run(monkeypatch, {"s0": ["unreachable"], "s1": ["disk_full"] * 3}, TASKS_A_STREAM=4)
    assert streams.seen == [["s0", "s1", "s2", "s3"], ["s4", "s5", "s6", "s0"], ["s1"], ["s1"]]
    assert [end for end in ends if end[1]] == [("s1", "disk_full", True)]
    assert sorted(end[0] for end in ends) == [row.slide_id for row in ROWS]


def test_a_node_that_is_left_out_ends_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has begun goes to others; what had ended before stays ended."""
    streams, ends = _run(monkeypatch, {"s2": ["device"]})
    assert streams.seen == [[row.slide_id for row in ROWS], ["s2", "s3", "s4", "s5", "s6"]]
    assert ends == [(row.slide_id, None, False) for row in ROWS]


def test_readers_leave_the_threads_of_opencv_alone() -> None:
    """A node has as many readers as CPUs."""
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(4)
        assert list(watched_work._watched_read(None, 0, lambda: iter([cv2.getNumThreads()]), failed_part)) == [1]  # type: ignore[list-item]
    finally:
        cv2.setNumThreads(before)


def _far_apart(number: int, scores: list[float]) -> pa.Table:
    """Tiles of one part, each in a region of its own."""
    n = len(scores)
    columns = {
        "tile_id": [f"{number}-{i}" for i in range(n)], "slide_id": ["s"] * n, "band": ["tissue"] * n, "score": scores,
        "x_level0_px": [1000 * i for i in range(n)], "y_level0_px": [1000 * number] * n, "tissue_fraction": [1.0] * n,
        "width_level0_px": [96] * n, "height_level0_px": [96] * n,
    }  # fmt: skip
    return pa.table(
        {f.name: pa.array(columns.get(f.name, [None] * n), f.type) for f in TILE_SCORES}, schema=TILE_SCORES
    )


def _scored_part(number: int, scores: list[float], failure: list[str] | None = None) -> dict[str, Any]:
    """A part of two bundles, the second of which scores one more or fails; its evidence lies far apart."""
    tables = [_far_apart(number, [score + more for score in scores]) for more in (0, 1)]
    evidence = pa.table(
        {"tile_id": [f"{number}-{i}" for i in range(len(scores))], "score": scores, "tile": [b"t"] * len(scores),
         "reconstruction": [None] * len(scores), "normals": [None] * len(scores)}, schema=EVIDENCE,
    )  # fmt: skip
    header = {"n_parts": 2, "etag": "e", "failures": [None, failure]}
    row = part_row(
        0, number, header=header, preview=b"p" if number == 0 else b"",
        scores=[to_ipc(tables[0]), b"" if failure else to_ipc(tables[1])], evidence=[to_ipc(evidence)] * 2,
    )  # fmt: skip
    (part,) = row.to_pylist()
    return dict(part)


def test_parts_are_put_together_for_each_bundle() -> None:
    """In the order of the parts, whatever order they came in; evidence is the best of all."""
    parts = {1: _scored_part(1, [5.0, 4.0, 3.0, 2.0]), 0: _scored_part(0, [4.5, 3.5, 1.0])}
    assert assembly.assembled(ROWS[0], parts[1], {1: parts[1]}) is None
    result = assembly.assembled(ROWS[0], parts[0], parts)
    assert result is not None
    assert (result.preview, result.failure) == (b"p", None)
    tables = [result.of_bundle(i).tiles for i in range(2)]
    scores = [4.5, 3.5, 1.0, 5.0, 4.0, 3.0, 2.0]
    assert [table["score"].to_pylist() for table in tables if table] == [scores, [score + 1 for score in scores]]
    evidence = result.of_bundle(1).evidence
    assert evidence is not None
    assert evidence["score"].to_pylist() == [5.0, 4.5, 4.0, 3.5, 3.0]


def test_parts_without_cells_stand_beside_parts_with() -> None:
    """As of tiles that are not read for what the thumbnail shows, or of a part whose tiles are all bad."""
    parts = {number: _scored_part(number, [number + 1.0]) for number in (0, 1)}
    cells = np.ones((1, 6, 6), np.float32)
    parts[1]["scores"] = [to_ipc(with_cells(from_ipc(data), cells)) for data in parts[1]["scores"]]
    result = assembly.assembled(ROWS[0], parts[1], parts)
    assert result is not None
    tiles = result.of_bundle(0).tiles
    assert tiles is not None
    assert tiles["score"].to_pylist() == [1, 2]
    assert tiles["cells"].is_null().to_pylist() == [True, False]


def test_a_bundle_that_fails_at_one_part_has_failed_at_the_slide() -> None:
    parts = {0: _scored_part(0, [1.0], ["scoring", "the first"]), 1: _scored_part(1, [2.0], ["scoring", "the second"])}
    result = assembly.assembled(ROWS[0], parts[1], parts)
    assert result is not None
    assert result.failure is None
    assert result.of_bundle(0).tiles is not None
    assert result.of_bundle(1) == BundleScores(failure=("scoring", "the first"))


def test_a_slide_that_fails_has_failed_for_every_bundle() -> None:
    (part,) = failed_part(0, "unreadable", "x").to_pylist()
    result = assembly.assembled(ROWS[0], part, {})
    assert result is not None
    assert [result.of_bundle(i).failure for i in range(2)] == [("unreadable", "x")] * 2
