"""`bench screen`: a whole screening from S3 against what this machine could do at best, and against a plain DataLoader.

Each case measures three things, with the same slides, tiles and batch of 64:

- limit: 1 / (1/decode + 1/model) tiles a second. `decode` is simplejpeg alone on all cores, over the JPEG tiles that
  the wanted tiles lie in, each decoded once, ready in memory. `model` is the detector alone on all cores, the better of
  one process with a thread a core and of one process a core. Storage, the tissue mask, evidence and commits cost
  nothing in it.
- uadray: `screening.job.screen` on Ray, from SeaweedFS on this machine to SeaweedFS: leases, tile scores, pictures and
  decisions included. The server's CPU time counts here, and not in the limit.
- peer: a PyTorch DataLoader with a worker a core that reads each tile by OpenSlide from a local file, and the same
  detector. It gets the grid for nothing, downloads nothing and keeps only scores.

There are two cases. `real` is a detector of the size of `configs/train/dpa.yaml` (untrained, which is the same work) on
its tiles of 96 px. `gpu` is a stand-in that takes 20 us a tile and no CPU, as a CPU waits while a GPU works, on tiles
of 256 px.

Steady state and start-up are told apart by doing the work twice, on few slides and on many. The rate is the difference
in tiles over the difference in seconds: what is paid once (processes, imports, weights, draining the pipeline) cancels
out, and whatever is paid by slide or by tile counts in full. The seconds that remain at the smaller screening are
`startup_s`. A first screening of one slide starts Ray's processes (`first_s`).
"""

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uadray.bench.processes import cpu_by_role, cpu_seconds
from uadray.bench.screen_limit import bare_rates
from uadray.bench.screen_peer import score_by_data_loader
from uadray.bench.seaweed import served
from uadray.bench.slides import gpu_tiles, upload_copies, write_calibration, write_dpa_bundle, write_slide
from uadray.bench.stand_in import LOADS
from uadray.cluster.connection import ENVIRONMENT
from uadray.detectors.bundle import Bundle
from uadray.detectors.detector import BATCH
from uadray.errors import WorkError
from uadray.slides.manifest import SlideRow
from uadray.storage import objects

GOALS = {"real": {"over_limit": 0.8, "over_peer": 1.1}, "gpu": {"over_limit": 0.5, "over_peer": 3.0}}
"""Least ratios of tiles per second."""

ROUNDS = 3
BARE_S = 4.0
"""Seconds of each measurement of the limit, which is measured before and after the screening."""


@dataclass(frozen=True)
class Size:
    """How much work a case is.

    Attributes:
        repeats: phantoms along a slide's side.
        few: slides of the smaller screening.
        many: slides of the larger one.
        peer_few: slides that the peer reads first.
        peer_many: slides that it reads then.
    """

    repeats: int
    few: int
    many: int
    peer_few: int
    peer_many: int


SIZES = {"real": Size(3, 1, 4, 1, 3), "gpu": Size(20, 1, 3, 1, 2)}
"""450 tiles a slide for the detector that scores a few tens a second; 12,000 (366 MB), as many as a section has, for
the one that scores 50,000. What each slide costs beside its tiles (thumbnail, masks, pictures, commit) counts too."""


def run(*, sizes: dict[str, Size] = SIZES, rounds: int = ROUNDS, bare_s: float = BARE_S) -> dict[str, Any]:
    """Measure; prints nothing. Takes about twenty minutes on two idle cores.

    Args:
        sizes: how much work each case is.
        rounds: in each, limit, uadray and peer are measured in turn, in new processes; ratios are medians over rounds.
        bare_s: seconds of each measurement of the limit.
    """
    figures: dict[str, Any] = {"cores": os.cpu_count(), "batch": BATCH, "goals": GOALS}
    with tempfile.TemporaryDirectory(prefix="uadray-bench-") as folder:
        for case, size in sizes.items():
            figures[case] = _case(case, size, Path(folder) / case, rounds, bare_s)
    met = [figures[case][name] >= goal for case in sizes for name, goal in GOALS[case].items()]
    return figures | {"goals_met": all(met)}


def _case(case: str, size: Size, folder: Path, rounds: int, bare_s: float) -> dict[str, Any]:
    folder.mkdir()
    path = write_slide(folder / "slide.tif", repeats=size.repeats)
    with served(folder) as server:
        root = f"s3://{server.bucket}"
        bundle = _bundle(case, f"{root}/bundle")
        rows = upload_copies(path, f"{root}/slides", size.many)
        pid = server.process.pid if server.process else 0
        all_figures = [
            _round(case, size, path, root, f"{root}/out-{i}", bundle, rows, pid, bare_s) for i in range(rounds)
        ]
    names = [name for name in all_figures[0] if not name.startswith("_")]
    return {
        **{name: round(statistics.median(figures[name] for figures in all_figures), 3) for name in names},
        **{f"{name}_rounds": [round(figures[name], 3) for figures in all_figures] for name in GOALS[case]},
        "cpu_ms_per_tile": all_figures[-1]["_cpu"],
        "runs_tiles_seconds": all_figures[-1]["_runs"],
        "peer_runs_tiles_seconds": all_figures[-1]["_peer_runs"],
        "tile_px": bundle.tiles.tile_px,
        "slide_bytes": path.stat().st_size,
    }


def _round(
    case: str, size: Size, path: Path, root: str, out: str, bundle: Bundle, rows: list[SlideRow], server_pid: int,
    bare_s: float,
) -> dict[str, Any]:  # fmt: skip
    """Measure a case once; the limit before and after, so that other load on the machine falls on all alike."""
    work = case, f"{root}/bundle", bundle, path
    before = _at_best(bare_rates, *work, bare_s)
    ours, cpu = _apart(_screened, case, root, out, bundle, rows, (1, size.few, size.many), server_pid)
    peer = _apart(score_by_data_loader, *work, (size.peer_few, size.peer_many))
    after = _at_best(bare_rates, *work, bare_s)
    bare = {name: (before[name] + after[name]) / 2 for name in before}
    limit = 1 / (1 / bare["decode"] + 1 / bare["model"])
    rate, startup_s = _slope(ours[1:])
    peer_rate, peer_startup_s = _slope(peer)
    return {
        "over_limit": rate / limit,
        "over_peer": rate / peer_rate,
        "limit_tiles_per_s": limit,
        **{f"{name}_tiles_per_s": value for name, value in bare.items()},
        "uadray_tiles_per_s": rate,
        "peer_tiles_per_s": peer_rate,
        "first_s": ours[0][1],
        "startup_s": startup_s,
        "peer_startup_s": peer_startup_s,
        "bare_after_over_before": after["decode"] / before["decode"],
        "_cpu": cpu,
        "_runs": [(n, round(seconds, 2)) for n, seconds in ours],
        "_peer_runs": [(n, round(seconds, 2)) for n, seconds in peer],
    }


def _slope(runs: list[tuple[int, float]]) -> tuple[float, float]:
    """Tiles a second of what the larger run did beyond the smaller, and the seconds of the smaller beside its tiles."""
    (few, few_s), (many, many_s) = runs
    rate = (many - few) / max(many_s - few_s, 1e-9)
    return rate, few_s - few / rate


def _at_best(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process with the screening's settings of the C library, which make the limit higher."""
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    try:
        return _apart(function, *arguments)
    finally:
        for name in ENVIRONMENT:
            os.environ.pop(name)
        os.environ.update(before)


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process, so that no measurement finds what another left in memory."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _bundle(case: str, uri: str) -> Bundle:
    if case == "real":
        return write_dpa_bundle(uri)
    bundle = write_dpa_bundle(uri)  # never loaded: it stands for the GPU's, and says how tiles are cut
    bundle = bundle.model_copy(update={"tiles": gpu_tiles()})
    objects.write_bytes(objects.join(uri, "bundle.json"), bundle.model_dump_json().encode())
    write_calibration(uri, bundle)
    return bundle


def _screened(
    case: str, root: str, out: str, bundle: Bundle, rows: list[SlideRow], counts: tuple[int, ...], server_pid: int
) -> tuple[list[tuple[int, float]], dict[str, float]]:
    """Screen so many slides, for each count in turn, on one Ray.

    Returns:
        Tiles and seconds of each screening, with the start of its actors, and the CPU time of the last, in ms a tile by
        the role of processes; those that ended meanwhile are not counted.
    """
    from uadray.cluster.connection import connect
    from uadray.screening.bundles import ScreeningBundle, read_calibration
    from uadray.screening.job import screen

    calibration = read_calibration(f"{root}/bundle", bundle)
    runs, began = [], time.perf_counter()
    connect()
    for i, n in enumerate(counts):
        before = cpu_seconds(os.getpid()) | cpu_seconds(server_pid)
        summary = screen(
            rows[:n], bundles=[ScreeningBundle(f"{root}/bundle", bundle, calibration)], out=f"{out}-{i}",
            load=LOADS[case],
        )  # fmt: skip
        if summary["scored"] != n:
            raise WorkError(f"the bench's own slides: {summary}")
        runs.append((int(summary["tiles_now"]), time.perf_counter() - began))
        began = time.perf_counter()
    spent = cpu_by_role(os.getpid(), before)
    spent["reader"] = spent.pop("reader", 0.0) + spent.pop("idle", 0.0)  # readers are idle after a task
    spent["server"] = cpu_by_role(server_pid, before)["driver"]
    return runs, {name: round(1000 * seconds / runs[-1][0], 4) for name, seconds in spent.items()}
