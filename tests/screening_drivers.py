"""Drivers of one screening as real processes, on the real ledger, without Ray: `python screening_drivers.py PLAN.json`.

Modules are imported once, then each driver is a fork. Every line of `<log>/<pid>.jsonl` is one event: which slide was
begun (its reader has claimed it) or committed. The plan's names are the arguments of `drive`.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uadray.decisions.aggregation import AggregationConfig
from uadray.decisions.conformal import Calibration
from uadray.reports.pictures import encode_jpeg
from uadray.schemas import TILE_SCORES
from uadray.screening import leases
from uadray.screening.bundles import ScreeningBundle, arranged
from uadray.screening.job import Committer
from uadray.screening.ledger import Ledger, open_ledger
from uadray.screening.slide_result import EVIDENCE, BundleScores, SlideResult
from uadray.slides.identity import Seen
from uadray.slides.manifest import SlideRow
from uadray.slides.slide import Mpp
from uadray.storage import objects
from uadray.tiles.spec import TileSpec

PREVIEW = encode_jpeg(np.full((30, 40, 3), 200, np.uint8))
CALIBRATION = Calibration(
    id="cal", bundle_id="b", aggregation=AggregationConfig(), alpha=0.25, scores=(1.0, 2.0, 3.0),
    tile_median=0.1, tile_p99=0.2, tile_high=0.3,
)  # fmt: skip


@dataclass
class Kind:
    kind: str = "dpa"
    input_px: int = 96


@dataclass
class Bundle:
    """What the ledger asks of a bundle."""

    id: str = "bundle"
    name: str = "bundle"
    tiles: TileSpec = field(default_factory=lambda: TileSpec(mpp=Mpp(0.5), tile_px=96))
    detector: Kind = field(default_factory=Kind)
    trained_on: Seen = field(default_factory=lambda: Seen("", frozenset()))


def panel(*bundles: Bundle) -> tuple[ScreeningBundle, ...]:
    """Bundles as a screening has them; one that is called `bundle` unless given."""
    described = bundles or (Bundle(),)
    return arranged([ScreeningBundle(f"/{each.id}", each, CALIBRATION) for each in described])  # type: ignore[arg-type]


def book(out: str, *bundles: Bundle, lease_s: float = 60.0) -> Ledger:
    """Open the ledger as `uadray screen` does."""
    return open_ledger(out, panel(*bundles), lease_s=lease_s)


def rows(folder: str, n: int) -> list[SlideRow]:
    """A manifest."""
    return [SlideRow(f"s{i:05d}", f"{folder}/s{i:05d}.tif") for i in range(n)]


def scored(row: SlideRow, *, etag: str = "e", score: float = 1.5, n_bundles: int = 1) -> SlideResult:
    """A slide with two tiles of this score, from each bundle one more than from the one before, and no evidence."""
    header = {"etag": etag, "size_level0_px": (400, 300), "mpp_level0": 0.5}
    scores = tuple(BundleScores(tiles(row, score + i), EVIDENCE.empty_table()) for i in range(n_bundles))
    return SlideResult(row, header, PREVIEW, b"{}", scores)


def failed(row: SlideRow, *, etag: str | None = None, reason: str = "unreadable") -> SlideResult:
    """A slide that fails before it is scored."""
    return SlideResult(row, {"etag": etag} if etag else {}, failure=(reason, "x"))


def tiles(row: SlideRow, score: float) -> pa.Table:
    """Two tiles of this score, as rows of `TILE_SCORES`."""
    columns = {
        "tile_id": [f"{row.slide_id}/{i}" for i in range(2)], "slide_id": [row.slide_id] * 2, "x_level0_px": [0, 96],
        "y_level0_px": [0, 0], "width_level0_px": [96] * 2, "height_level0_px": [96] * 2, "tissue_fraction": [1.0] * 2,
        "band": ["tissue"] * 2, "score": [score] * 2, "mean_saturation": [0.1] * 2, "mean_green": [0.1] * 2,
        "error": [None, None],
    }  # fmt: skip
    return pa.table(
        {f.name: pa.array(columns.get(f.name, [None] * 2), f.type) for f in TILE_SCORES}, schema=TILE_SCORES
    )


def verdicts(result: SlideResult, n_bundles: int = 1) -> list[dict[str, Any]]:
    """As `judge` would, in short; one of each bundle."""
    return [_verdict(result.of_bundle(index)) for index in range(n_bundles)]


def _verdict(scores: BundleScores) -> dict[str, Any]:
    if scores.tiles is None:
        reason, message = scores.failure or ("lost", "x")
        return {"state": "failed", "reason": reason, "message": message}
    score = scores.tiles["score"][0].as_py()
    return {"state": "scored", "decision": "normal", "score": score, "n_tiles": 2, "n_scored": 2, "coverage": 1.0}


def consistent(out: str, rows: list[SlideRow]) -> list[float]:
    """The slides' scores, after a look whether each decision stands beside the tiles that it was made from."""
    scores = []
    for row in rows:
        decision = json.loads(objects.read_bytes(leases.decision_uri(out, row.slide_id)))
        tiles = pq.read_table(pa.BufferReader(objects.read_bytes(f"{out}/tiles/{row.slide_id}.parquet")))
        assert set(tiles["score"].to_pylist()) == {decision["score"]}, row.slide_id
        scores.append(decision["score"])
    return scores


def decisions_table(out: str) -> pa.Table:
    """What `decisions.parquet` says."""
    return pq.read_table(pa.BufferReader(objects.read_bytes(f"{out}/decisions.parquet")))


def left_behind(out: str) -> list[str]:
    """Leases and heartbeats that are still there."""
    return [info.uri for name in ("leases", "drivers") for info in objects.list_objects(f"{out}/{name}")]


def slides(folder: Path, n: int) -> list[SlideRow]:
    """A manifest, and its files."""
    manifest = rows(str(folder), n)
    for row in manifest:
        objects.write_bytes(row.uri, row.slide_id.encode())
    return manifest


def screened(out: str, manifest: list[SlideRow], *bundles: Bundle, fail: str = "-", **options: Any) -> list[str]:
    """Screen what is pending; returns the slides that were, in order."""
    done = []
    with book(out, *bundles) as ledger:
        for todo in ledger.rounds(manifest, **options):
            for row in todo:
                assert leases.claim(ledger.owner, row.slide_id, replaces=ledger.withdrawn.get(row.slide_id)) == "ours"
                result = scored(row, etag=objects.stat(row.uri).etag, n_bundles=max(1, len(bundles)))
                if row.slide_id.endswith(fail):
                    result = failed(row)
                assert ledger.commit(result, verdicts(result, max(1, len(bundles))))
                done.append(row.slide_id)
        ledger.finish(manifest)
    return done


class Herd:
    """Driver processes and what they did."""

    def __init__(self, home: Path, *plans: dict[str, Any], **shared: Any) -> None:
        self.log = home / f"log{len(list(home.glob('log*')))}"
        self.log.mkdir()
        (self.log / "plan").write_text(json.dumps([{"log": str(self.log), **shared, **plan} for plan in plans]))
        self.process = subprocess.Popen(
            [sys.executable, __file__, self.log / "plan"], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.pids: list[int] = json.loads(self.process.stdout.readline())

    def events(self, pid: int | None = None) -> list[dict[str, Any]]:
        files = self.log.glob(f"{pid or '*'}.jsonl")
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def count(self, what: str) -> Counter[str]:
        return Counter(event[what] for event in self.events() if what in event)

    def wait_for(self, happened: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, self.events()
            time.sleep(0.02)

    def codes(self) -> list[int]:
        """Exit codes, when all have ended."""
        assert self.process.stdout is not None
        out, _ = self.process.communicate(timeout=120)
        return list(json.loads(out))


def drive(
    out: str, *, folder: str, n_slides: int, log: str, lease_s: float, in_flight: int = 4, work_s: float = 0.0,
    hang_after: int | None = None, score: float = 1.5, fail: str = "", retry_failed: bool = False, finish: bool = True,
    n_bundles: int = 1, describe: bool = False,
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
        n_bundles: that screen together.
        describe: say in heartbeats how far it is, as a screening on a cluster does.
    """
    events = Path(log, f"{os.getpid()}.jsonl").open("w")  # noqa: SIM115

    def say(**event: Any) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    n_commits, manifest = 0, rows(folder, n_slides)
    bundles = [Bundle(f"b{i}", f"b{i}") for i in range(n_bundles)] if n_bundles > 1 else []
    committer = Committer(n_slides, progress=None)
    with book(out, *bundles, lease_s=lease_s) as ledger:
        if describe:
            ledger.describe = lambda: committer.state(ledger)
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
                    fails = bool(fail) and row.slide_id.endswith(fail)
                    result = failed(row) if fails else scored(row, score=score, n_bundles=n_bundles)
                    if ledger.commit(result, verdicts(result, n_bundles)):
                        say(committed=row.slide_id)
                        committer._slides += 1
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
