"""Drivers of one screening as real processes, on the real ledger, without Ray: `python screening_drivers.py PLAN.json`.

Modules are imported once, then each driver is a fork. Every line of `<log>/<pid>.jsonl` is one event: which slide was
begun (its reader has claimed it) or committed. The plan's names are the arguments of `drive`.
"""

import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from uadray.decisions.aggregation import AggregationConfig
from uadray.decisions.conformal import Calibration
from uadray.reports.pictures import encode_jpeg
from uadray.schemas import TILE_SCORES
from uadray.screening import leases
from uadray.screening.ledger import Ledger, open_ledger
from uadray.slides.manifest import SlideRow
from uadray.slides.slide import Mpp
from uadray.tiles.spec import TileSpec

PREVIEW = encode_jpeg(np.full((30, 40, 3), 200, np.uint8))
EVIDENCE = pa.schema(
    [("tile_id", pa.string()), ("score", pa.float64()), ("tile", pa.binary()), ("reconstruction", pa.binary())]
)
CALIBRATION = Calibration(
    id="cal", bundle_id="b", aggregation=AggregationConfig(), alpha=0.25, scores=(1.0, 2.0, 3.0),
    tile_median=0.1, tile_p99=0.2, tile_high=0.3,
)  # fmt: skip


@dataclass
class Result:
    """What `uadray.screening.slide_result.SlideResult` is to the ledger; importing that would import torch and Ray."""

    row: SlideRow
    header: dict[str, Any] = field(default_factory=dict)
    preview: bytes = b""
    masks: bytes = b"{}"
    tiles: pa.Table | None = None
    evidence: pa.Table | None = None
    failure: tuple[str, str] | None = None


@dataclass
class Kind:
    kind: str = "dpa"


@dataclass
class Bundle:
    """What the ledger asks of a bundle."""

    id: str = "bundle"
    name: str = "bundle"
    tiles: TileSpec = field(default_factory=lambda: TileSpec(mpp=Mpp(0.5), tile_px=96))
    detector: Kind = field(default_factory=Kind)


def book(out: str, *, lease_s: float = 60.0, bundle: Bundle | None = None) -> Ledger:
    """Open the ledger as `uadray screen` does."""
    described = bundle or Bundle()
    return open_ledger(out, bundle=described, calibration=CALIBRATION, lease_s=lease_s)  # type: ignore[arg-type]


def rows(folder: str, n: int) -> list[SlideRow]:
    """A manifest."""
    return [SlideRow(f"s{i:05d}", f"{folder}/s{i:05d}.tif") for i in range(n)]


def scored(row: SlideRow, *, etag: str = "e", score: float = 1.5) -> Result:
    """A slide with two tiles of this score, and no evidence."""
    columns = {
        "tile_id": [f"{row.slide_id}/{i}" for i in range(2)], "slide_id": [row.slide_id] * 2, "x_level0_px": [0, 96],
        "y_level0_px": [0, 0], "width_level0_px": [96] * 2, "height_level0_px": [96] * 2, "tissue_fraction": [1.0] * 2,
        "band": ["tissue"] * 2, "score": [score] * 2, "mean_saturation": [0.1] * 2, "mean_green": [0.1] * 2,
        "error": [None, None],
    }  # fmt: skip
    tiles = pa.table(
        {f.name: pa.array(columns.get(f.name, [None] * 2), f.type) for f in TILE_SCORES}, schema=TILE_SCORES
    )
    header = {"etag": etag, "size_level0_px": (400, 300), "mpp_level0": 0.5}
    return Result(row, header, PREVIEW, tiles=tiles, evidence=EVIDENCE.empty_table())


def verdict(result: Result) -> dict[str, Any]:
    """As `judge` would, in short."""
    if result.failure is not None or result.tiles is None:
        return {"state": "failed", "reason": "unreadable", "message": "x"}
    score = result.tiles["score"][0].as_py()
    return {"state": "scored", "decision": "normal", "score": score, "n_tiles": 2, "n_scored": 2, "coverage": 1.0}


def drive(
    out: str, *, folder: str, n_slides: int, log: str, lease_s: float, in_flight: int = 4, work_s: float = 0.0,
    hang_after: int | None = None, score: float = 1.5, fail: str = "", retry_failed: bool = False, finish: bool = True,
) -> None:  # fmt: skip
    """Screen until all is decided, `in_flight` slides at a time.

    Args:
        out: the screening's folder.
        folder: of the slides.
        n_slides: rows of the manifest.
        log: folder for this process's events.
        lease_s: see `uadray.screening.heartbeats`.
        in_flight: slides that are claimed before the first of them is committed.
        work_s: seconds of work a slide.
        hang_after: stand still for ever after so many commits, with the next slides claimed.
        score: this driver's score of every slide.
        fail: slides whose id ends so fail.
        retry_failed: as on the command line.
        finish: write the summary.
    """
    events = Path(log, f"{os.getpid()}.jsonl").open("w")  # noqa: SIM115

    def say(**event: Any) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    n_commits, manifest = 0, rows(folder, n_slides)
    with book(out, lease_s=lease_s) as ledger:
        for todo in ledger.rounds(manifest, retry_failed=retry_failed):
            for start in range(0, len(todo), in_flight):
                ours = []
                for row in todo[start : start + in_flight]:
                    outcome = leases.claim(ledger.owner, row.slide_id, replaces=ledger.withdrawn.get(row.slide_id))
                    if outcome == "ours":
                        say(begun=row.slide_id)
                        ours.append(row)
                    else:
                        ledger.pass_over(row.slide_id, outcome)
                for row in ours:
                    if n_commits == hang_after:
                        say(hangs=True)
                        time.sleep(3600)
                    time.sleep(work_s)
                    failed = bool(fail) and row.slide_id.endswith(fail)
                    result = Result(row, failure=("unreadable", "x")) if failed else scored(row, score=score)
                    if ledger.commit(result, verdict(result)):  # type: ignore[arg-type]
                        say(committed=row.slide_id)
                        n_commits += 1
        if finish:
            ledger.finish(manifest)
    say(ended=True)


def main(plans: list[dict[str, Any]]) -> None:
    """Fork one driver a plan, print their process ids, and wait for all of them."""
    children = []
    for plan in plans:
        child = os.fork()
        if child == 0:
            try:
                drive(**plan)
            except BaseException:  # this process must end here
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    print(json.dumps(children), flush=True)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
