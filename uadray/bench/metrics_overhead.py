"""Screenings of painted slides with metrics and without, in turn: what timing, counting and telling cost of the CPU."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa

from uadray import metrics
from uadray.bench.processes import CpuMeter
from uadray.bench.slides import write_slide, write_tiny_bundle
from uadray.detectors.bundle import Bundle, load_detector
from uadray.screening import scorer, slide_reader
from uadray.slides.manifest import SlideRow
from uadray.stage_seconds import WorkRecord
from uadray.tiles.spec import TileSpec


def painted(folder: Path, n: int) -> None:
    """Slides of some hundred tiles: one file under many names; and a bundle."""
    if (folder / "slides").exists():
        return
    (folder / "slides").mkdir()
    path = write_slide(folder / "slide.tif", repeats=2)
    for i in range(n):
        os.link(path, folder / "slides" / f"s{i:03}.tif")
    write_tiny_bundle(str(folder / "bundle-painted"))


def overhead(folder: Path, n: int, rounds: int) -> dict[str, Any]:
    """CPU seconds of screenings with and without metrics, in turn."""
    from uadray.cluster.connection import connect
    from uadray.screening.bundles import calibrated_bundle
    from uadray.screening.job import screen

    painted(folder, n)
    rows = [SlideRow(f"s{i:03}", f"{folder}/slides/s{i:03}.tif") for i in range(n)]
    bundles = [calibrated_bundle(f"{folder}/bundle-painted")]
    connect()
    spent: dict[bool, list[float]] = {True: [], False: []}
    screen(rows[:2], bundles=bundles, out=f"{folder}/first")  # starts Ray's processes
    with CpuMeter() as meter:
        for number, counted in enumerate([True, False, False, True] * rounds):
            before = sum(meter.seconds().values())
            out = f"{folder}/overhead-{number}"
            if counted:
                screen(rows, bundles=bundles, out=out)
            else:
                with _uncounted():
                    screen(rows, bundles=bundles, out=out, read=read_uncounted, load=load_uncounted)
            spent[counted].append(sum(meter.seconds().values()) - before)
    ratio = min(spent[True]) / min(spent[False])  # what else the machine does only adds to it
    return {
        "overhead": round(ratio - 1, 4),
        "cpu_s_with": [round(each, 2) for each in spent[True]],
        "cpu_s_without": [round(each, 2) for each in spent[False]],
    }


@contextmanager
def _uncounted() -> Iterator[None]:
    """A driver in which nothing is counted or told."""
    with ExitStack() as stack:
        for name in ("count", "set_gauge", "start_run", "end_run", "tell"):
            stack.enter_context(mock.patch.object(metrics, name))
        yield


@contextmanager
def _unrecorded() -> Iterator[WorkRecord]:
    yield WorkRecord()


def read_uncounted(index: int, row: SlideRow, spec: TileSpec) -> Iterator[pa.Table]:
    """`read_slide`, and nothing is timed."""
    with mock.patch.object(slide_reader, "recording", _unrecorded):
        yield from slide_reader.read_slide(index, row, spec)


def load_uncounted(uri: str, bundle: Bundle, **options: Any) -> Any:
    """`load_detector`, in an actor in which nothing is timed from now on."""
    mock.patch.object(scorer, "recording", _unrecorded).start()
    mock.patch.object(scorer, "clocked", lambda detector, clock: detector).start()
    return load_detector(uri, bundle, **options)
