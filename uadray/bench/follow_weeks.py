"""What weeks of following take: memory and requests while thousands of slides arrive, some at a time.

Arrivals, ledger, commits and renewals are those of `uadray screen --follow`, on a real S3 server. Two things are made
up: time, which passes where the follower would wait, and the round, in which no pixel is read and Ray has no part: each
result is made here. A process of its own does it, whose memory is that of a driver without Ray.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pyarrow as pa

from uadray.bench.archive import write_bundle_of_one_tile
from uadray.bench.processes import memory
from uadray.bench.seaweed import SeaweedServer
from uadray.detectors.bundle import read_bundle
from uadray.errors import WorkError
from uadray.reports.pictures import encode_jpeg
from uadray.schemas import TILE_SCORES
from uadray.screening import leases
from uadray.screening.arrivals import Arrivals
from uadray.screening.bundles import ScreeningBundle, arranged, read_calibration
from uadray.screening.follower import Follower, Pace
from uadray.screening.job import Committer
from uadray.screening.ledger import Ledger, open_ledger
from uadray.screening.slide_result import EVIDENCE, BundleScores, SlideResult
from uadray.slides.identity import slide_etag
from uadray.slides.manifest import SlideRow
from uadray.storage import objects

BATCH = 20
"""Slides that come between two looks."""

LOOK_S, RENEW_S = 600.0, 6000.0
"""Of the made-up time, in which 10,000 slides come within four days."""

QUARTERS = 4
_PREVIEW = encode_jpeg(np.full((48, 64, 3), 200, np.uint8))


def measured(server: SeaweedServer, *, arrivals: int) -> dict[str, Any]:
    """The figures of so many arrivals, a multiple of 80, by quarter.

    What grows is compared between the second and the last: in the first, code is loaded and connections are made.

    Returns:
        `quarters`, each with `memory_mb` at its end, `requests_per_slide` (uploads not counted), and, at its end,
        `requests_of_a_look` that finds nothing and `requests_of_a_renewal`; `memory_growth`, `requests_growth`, and
        `memory_bytes_per_slide`.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_follow, args=(f"s3://{server.bucket}", arrivals, there), daemon=True)
    process.start()
    there.close()
    counts: list[tuple[int, float]] = []
    try:
        while here.recv() == "look":  # the process waits until both have been read
            counts.append((sum(server.requests().values()), memory(process.pid or 0).own / 1e6))
            here.send("on")
    except EOFError as error:
        raise WorkError("the process that follows has ended") from error
    process.join()
    quarters = [_quarter(counts[3 * i : 3 * i + 4], arrivals // QUARTERS) for i in range(QUARTERS)]
    second, last = quarters[1], quarters[-1]
    growth_mb = last["memory_mb"] - second["memory_mb"]
    return {
        "arrivals": arrivals,
        "quarters": quarters,
        "memory_growth": round(last["memory_mb"] / second["memory_mb"], 3),
        "memory_bytes_per_slide": round(1e6 * growth_mb / (arrivals / QUARTERS * (QUARTERS - 2))),
        "requests_growth": round(last["requests_per_slide"] / second["requests_per_slide"], 3),
    }


def _quarter(counts: Sequence[tuple[int, float]], slides: int) -> dict[str, float]:
    """Of the counts at the beginning of a quarter, at its end, after a look, and after a renewal."""
    (begin, _), (end, megabytes), (looked, _), (renewed, _) = counts
    return {
        "memory_mb": round(megabytes, 1),
        "requests_per_slide": round((end - begin) / slides - 1, 2),
        "requests_of_a_look": looked - end,
        "requests_of_a_renewal": renewed - looked,
    }


class _Weeks:
    """Time that passes where the follower waits, and slides that come in it."""

    def __init__(self, folder: str, arrivals: int, at_quarter: Callable[[], None]) -> None:
        self.now_s = 0.0
        self._folder, self._arrivals, self._at_quarter = folder, arrivals, at_quarter
        self._come, self._next_quarter = 0, arrivals // QUARTERS
        self._is_over = False
        self._pool = ThreadPoolExecutor(8)

    def __call__(self) -> float:
        """Seconds."""
        return self.now_s

    def is_set(self) -> bool:
        """Whether all have come and are decided."""
        return self._is_over

    def wait(self, timeout: float, /) -> bool:
        """Let time pass; slides come."""
        self.now_s += timeout
        if self._come == self._next_quarter:
            self._next_quarter += self._arrivals // QUARTERS
            self._at_quarter()
            self._is_over = self._come == self._arrivals
        numbers = range(self._come, min(self._come + BATCH, self._arrivals))
        uris = [objects.join(self._folder, f"day{n // 1000}", f"{n:06}.svs") for n in numbers]
        list(self._pool.map(lambda uri: objects.write_bytes(uri, uri.encode()), uris))
        self._come += len(numbers)
        return self.is_set()


def _follow(bucket: str, arrivals: int, parent: Connection) -> None:
    """Follow the bucket; the parent is asked to count at the beginning, and three times at the end of each quarter."""
    write_bundle_of_one_tile(f"{bucket}/bundle")
    bundle = read_bundle(f"{bucket}/bundle")
    bundles = arranged([ScreeningBundle(f"{bucket}/bundle", bundle, read_calibration(f"{bucket}/bundle", bundle))])

    def count() -> None:
        parent.send("look")
        parent.recv()

    def at_quarter() -> None:
        count()
        for _ in Arrivals(f"{bucket}/in").look():
            pass
        count()
        book.renew(between_rounds=True)
        count()

    weeks = _Weeks(f"{bucket}/in", arrivals, at_quarter)
    with open_ledger(f"{bucket}/out", bundles) as book:
        committer = Committer(0, progress=None)
        pace = Pace(look_s=LOOK_S, renew_s=RENEW_S)
        follower = Follower(
            f"{bucket}/in", book, lambda rows: committer.take(_results(rows, book), book), stop=weeks, pace=pace,
            clock=weeks,
        )  # fmt: skip
        count()
        summary = follower.run()
    if summary["scored"] != arrivals:
        raise WorkError(f"the bench's own slides: {summary}")
    parent.send("end")


def _results(rows: Sequence[SlideRow], book: Ledger) -> Iterator[SlideResult]:
    """Results as readers and scorers make them, each slide claimed before."""
    for row in rows:
        outcome = leases.claim(book.owner, row.slide_id, replaces=book.withdrawn.get(row.slide_id))
        if outcome != "ours":
            yield SlideResult(row, failure=(outcome, ""))
            continue
        header = {"etag": slide_etag(row), "size_level0_px": (400, 300), "mpp_level0": 0.5, "n_tiles": 1}
        scores = BundleScores(_one_tile(row), EVIDENCE.empty_table())
        yield SlideResult(row, header, _PREVIEW, b"{}", (scores,))


def _one_tile(row: SlideRow) -> pa.Table:
    values = {"tile_id": f"{row.slide_id}/0", "slide_id": row.slide_id, "band": "tissue", "score": 0.5}
    values |= dict.fromkeys(("x_level0_px", "y_level0_px"), 0) | dict.fromkeys(
        ("width_level0_px", "height_level0_px"), 16
    )
    values |= dict.fromkeys(("tissue_fraction", "mean_saturation", "mean_green"), 0.5)
    return pa.Table.from_pylist([values], schema=TILE_SCORES)
