"""A stream on a real cluster: processes die, devices break, and each slide still ends in exactly one state."""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import ray

from uadray.bench.slides import write_slide, write_tiny_bundle
from uadray.cluster.nodes import Nodes
from uadray.cluster.read_tasks import bind_read_task
from uadray.cluster.scorer_pool import AT_ONCE
from uadray.cluster.stream import stream
from uadray.cluster.watch_actor import DriversWatch
from uadray.cluster.workers import StreamConfig
from uadray.detectors.bundle import Bundle
from uadray.detectors.detector import Scored
from uadray.errors import WorkError
from uadray.screening import results
from uadray.screening.parts import failed_part, part_row
from uadray.screening.results import scored_slides
from uadray.screening.slide_reader import read_slide
from uadray.screening.slide_result import SlideResult
from uadray.slides.manifest import SlideRow
from uadray.tiles.spec import TileSpec

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("default"),  # of Ray, about itself
]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Bundle, Path]:
    folder = tmp_path_factory.mktemp("stream")
    bundle = write_tiny_bundle(str(folder / "bundle"))
    return str(folder / "bundle"), bundle, write_slide(folder / "slide.tif", repeats=6, phantom_px=512)


def _rows(path: Path, *names: str) -> list[SlideRow]:
    return [SlideRow(name, str(path)) for name in names]


def _deadly(index: int, row: SlideRow, spec: TileSpec, folder: str) -> Iterator[pa.Table]:
    """Read a slide; that of `killer` dies after its first part, and leaves a trace."""
    for n, part in enumerate(read_slide(index, row, spec)):
        if row.slide_id == "killer" and n == 1:
            Path(folder, f"{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield part


def test_a_slide_that_kills_its_readers_fails_after_the_second_and_no_other_notices(
    archive: tuple[str, Bundle, Path], tmp_path: Path
) -> None:
    uri, bundle, path = archive
    rows = _rows(path, "s0", "killer", "s1")
    reads = lambda some: [bind_read_task(_deadly, i, r, bundle.tiles, str(tmp_path)) for i, r in enumerate(some)]  # noqa: E731
    results = {r.row.slide_id: r for r in _screened(rows, uri, bundle, reads=reads)}
    assert results.keys() == {"s0", "killer", "s1"}
    assert [results[n].failure for n in ("s0", "s1")] == [None, None]
    assert results["killer"].failure is not None
    assert results["killer"].failure[0] == "crashed", results["killer"].failure
    assert "was killed 2 times, on " in results["killer"].failure[1]
    assert len(list(tmp_path.iterdir())) == 2


def test_in_a_group_only_the_slide_that_kills_its_readers_fails(
    archive: tuple[str, Bundle, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two readers die at it, one at the whole group and one at the slide alone; all others are scored."""
    uri, bundle, path = archive
    monkeypatch.setattr(results, "slide_groups", lambda rows, **_: [list(rows)])
    rows = _rows(path, "s0", "killer", "s1", "s2")
    reads = lambda some: [bind_read_task(_deadly, i, r, bundle.tiles, str(tmp_path)) for i, r in enumerate(some)]  # noqa: E731
    ends = {r.row.slide_id: r.failure for r in _screened(rows, uri, bundle, reads=reads)}
    assert {name: failure and failure[0] for name, failure in ends.items()} == {
        "s0": None, "killer": "crashed", "s1": None, "s2": None,
    }  # fmt: skip
    assert len(list(tmp_path.iterdir())) == 2


class Brittle:
    """Scores by brightness. Of a white first pixel it dies; after `calls` calls it raises as a broken GPU does."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def __call__(self, images: npt.NDArray[np.uint8]) -> Scored:
        self.calls -= 1
        if self.calls < 0:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if (images[:, 0, 0] == 1).all(-1).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return Scored(
            images.mean((1, 2, 3)),
            lambda rows: (images[list(rows)], images[list(rows)]),
            lambda rows: np.zeros((len(rows), 2, 2), np.float32),
        )


def _marked(index: int, row: SlideRow, spec: TileSpec) -> Iterator[pa.Table]:
    """Read a slide; the first pixel of each part of `killer` is (1, 1, 1)."""
    for part in read_slide(index, row, spec):
        if row.slide_id != "killer":
            yield part
            continue
        at = part.schema.get_field_index("pixels")
        yield part.set_column(at, part.schema.field(at), pa.array([b"\1\1\1" + part["pixels"][0].as_py()[3:]]))


def test_a_slide_that_kills_its_scorer_fails_and_no_other_notices(archive: tuple[str, Bundle, Path]) -> None:
    uri, bundle, path = archive
    reads = lambda some: [bind_read_task(_marked, i, r, bundle.tiles) for i, r in enumerate(some)]  # noqa: E731
    load = lambda *_, **__: Brittle(10**9)  # noqa: E731
    results = {r.row.slide_id: r for r in _screened(_rows(path, "s0", "killer", "s1"), uri, bundle, reads, load)}
    assert [results[n].failure for n in ("s0", "s1")] == [None, None]
    assert (results["killer"].failure or ("",))[0] == "crashed"


def test_a_broken_device_is_no_verdict_on_a_slide(archive: tuple[str, Bundle, Path]) -> None:
    uri, bundle, path = archive
    load = lambda *_, **__: Brittle(4)  # noqa: E731
    rows = _rows(path, *(f"s{i}" for i in range(6)))
    with pytest.raises(WorkError, match=r"no node can be used; node [\d.]+: the detector failed: .*CUDA error"):
        list(_screened(rows, uri, bundle, load=load))


def _shy(index: int, row: SlideRow, spec: TileSpec, folder: str) -> Iterator[pa.Table]:
    """Read a slide; `shy` meets an endpoint that does not answer, twice, `hidden` always."""
    traces = list(Path(folder).glob(f"{row.slide_id}-*"))
    if (row.slide_id == "shy" and len(traces) < 2) or row.slide_id == "hidden":
        Path(folder, f"{row.slide_id}-{len(traces)}").touch()
        yield failed_part(index, "unreachable", "no answer from http://127.0.0.1:1")
    else:
        yield from read_slide(index, row, spec)


def test_what_the_system_fails_at_is_tried_again_and_else_stays_open(
    archive: tuple[str, Bundle, Path], tmp_path: Path
) -> None:
    uri, bundle, path = archive
    reads = lambda some: [bind_read_task(_shy, i, r, bundle.tiles, str(tmp_path)) for i, r in enumerate(some)]  # noqa: E731
    results = {r.row.slide_id: r for r in _screened(_rows(path, "s0", "shy", "hidden"), uri, bundle, reads)}
    assert results["s0"].failure is results["shy"].failure is None
    assert results["hidden"].is_open
    assert (results["hidden"].failure or ("",))[0] == "unreachable"
    assert len(list(tmp_path.glob("hidden-*"))) == 3


def _traced(index: int, folder: str) -> Iterator[pa.Table]:
    """Twenty rows of a slide; each leaves a trace when it is made."""
    for n in range(20):
        Path(folder, f"{index}-{n}").touch()
        yield part_row(index, n, header={}, pixels=bytes(2**20))


class Counting:
    """Scores nothing."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __call__(self, table: pa.Table) -> pa.Table:
        return table.drop_columns(["pixels"])


def test_no_more_is_read_than_is_taken(tmp_path: Path) -> None:
    """However large the archive is: two CPUs' readers make a row each, and wait until somebody takes it."""
    nodes, watch = Nodes(), DriversWatch()
    tasks = [bind_read_task(_traced, index, str(tmp_path)) for index in range(40)]
    rows = stream(
        tasks, scorer=Counting, arguments={}, failed_row=failed_part, config=StreamConfig(score_workers=1, threads=1),
        nodes=nodes, watch=watch,
    )  # fmt: skip
    while next(rows) is None:
        pass
    time.sleep(3)
    held = nodes.cores() + AT_ONCE + 3  # by readers, the scorer, the driver
    assert len(list(tmp_path.iterdir())) <= 2 * held
    taken = [row["slide"] for row in rows if row is not None]
    watch.close()
    assert len(taken) == 800 - 1
    assert len(list(tmp_path.iterdir())) == 800


def _screened(
    rows: Sequence[SlideRow], uri: str, bundle: Bundle, reads: Any = None, load: Any = None
) -> Iterator[SlideResult]:
    config = StreamConfig(score_workers=1, threads=1)
    options = {"load": load} if load else {}
    return scored_slides(rows, bundles={uri: bundle}, config=config, reads=reads, **options)
