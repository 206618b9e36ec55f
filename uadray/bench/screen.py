"""`bench screen`: a whole screening from S3 against what this machine could do at best, and against plain DataLoaders.

Each case measures these, with the same slides, tiles and batch of 64:

- limit: 1 / (1/decode + 1/model) tiles a second. `decode` is simplejpeg alone on all cores, over the JPEG tiles that
  the wanted tiles lie in, each decoded once, ready in memory. `model` is the detector alone on all cores, the better of
  one process with a thread a core and of one process a core. Storage, the tissue mask, evidence and commits cost
  nothing in it.
- uadray: `screening.job.screen` on Ray, from SeaweedFS on this machine to SeaweedFS: leases, tile scores, pictures and
  decisions included. The server's CPU time counts here, and not in the limit.
- peers: a PyTorch DataLoader with a worker a core that reads each tile from a local file by OpenSlide, and one by cucim
  where that is installed, and the same detector. They get the grid for nothing, download nothing and keep only scores.

The cases: `exact`, `0.4990` and `0.2525` are `slides.MPP_CASES` on tiles of 256 px, with a stand-in for the detector
that takes 20 us a tile and no CPU, as a CPU waits while a GPU works. `host` is the exact case with all that a detector
does on the host and no time for the model. `real` is a detector of the size of `configs/train/dpa.yaml` (untrained,
which is the same work) on its tiles of 96 px.

Steady state and start-up are told apart by doing the work twice, on few slides and on many. The rate is the difference
in tiles over the difference in seconds: what is paid once (processes, imports, weights, draining the pipeline) cancels
out, and whatever is paid by slide or by tile counts in full. The seconds that remain at the smaller screening are
`startup_s`. CPU milliseconds a tile are the same difference in the CPU time of all processes but the server, by what
they do; unlike rates they hold on a machine that does other work too. A first screening of one slide starts Ray's
processes (`first_s`).
"""

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uadray.bench.processes import CpuMeter, cpu_seconds
from uadray.bench.screen_limit import bare_rates
from uadray.bench.screen_peer import peers, score_by_data_loader
from uadray.bench.seaweed import served
from uadray.bench.slides import (
    MPP,
    MPP_CASES,
    gpu_tiles,
    upload_copies,
    write_calibration,
    write_dpa_bundle,
    write_slide,
)
from uadray.bench.stand_in import load_of
from uadray.cluster.connection import ENVIRONMENT
from uadray.detectors.bundle import Bundle
from uadray.detectors.detector import BATCH
from uadray.errors import InputError, WorkError
from uadray.slides.manifest import SlideRow
from uadray.storage import objects

GOALS: dict[str, dict[str, float]] = {
    "exact": {"over_limit": 0.5, "over_openslide": 3.0, "over_cucim": 1.0, "cpu_ms_per_tile": 0.5},
    "0.4990": {"cpu_ms_per_tile": 1.0},
    "real": {"over_limit": 0.85, "over_openslide": 1.1},
}
"""Least ratios of tiles per second, and the most CPU time. `over_cucim` counts where cucim is installed."""

BARE_S = 2.0
"""Seconds of each measurement of the limit, which is measured before and after the screening."""


@dataclass(frozen=True)
class Size:
    """How much work a case is.

    Attributes:
        repeats: phantoms along a slide's side.
        few: slides of the smaller screening.
        many: slides of the larger one.
        peer_few: tiles that a peer reads first.
        peer_many: tiles that it reads then.
    """

    repeats: int
    few: int
    many: int
    peer_few: int
    peer_many: int


SIZES = {
    "exact": Size(12, 2, 8, 2000, 10_000),
    "0.4990": Size(12, 2, 8, 2000, 8000),
    "0.2525": Size(20, 2, 8, 1000, 4000),
    "host": Size(12, 2, 8, 0, 0),
    "real": Size(3, 2, 6, 192, 640),
}
"""450 tiles a slide for the detector that scores some tens a second, and some thousand for the stand-ins; two slides at
least, so that both of two readers have begun before. What each slide costs beside its tiles (thumbnail, masks,
pictures, commit) counts too."""


def run(
    *, only: Sequence[str] = (), sizes: dict[str, Size] = SIZES, rounds: int = 1, bare_s: float = BARE_S
) -> dict[str, Any]:
    """Measure; prints nothing. Takes about ten minutes on two idle cores.

    Args:
        only: cases; all unless given.
        sizes: how much work each case is.
        rounds: in each, limit, uadray and peers are measured in turn, in new processes; figures are medians.
        bare_s: seconds of each measurement of the limit.

    Raises:
        InputError: there is no such case.
    """
    if unknown := set(only) - set(sizes):
        raise InputError(f"bench screen has no case {', '.join(sorted(unknown))}; there are: {', '.join(sizes)}")
    chosen = only or tuple(sizes)
    figures: dict[str, Any] = {"cores": os.cpu_count(), "batch": BATCH, "peers": peers(), "goals": GOALS}
    with tempfile.TemporaryDirectory(prefix="uadray-bench-") as folder:
        for case in chosen:
            figures[case] = _case(case, sizes[case], Path(folder) / case, rounds, bare_s)
    return figures | {"goals_met": all(_is_met(case, figures[case]) for case in chosen)}


def _is_met(case: str, figures: dict[str, Any]) -> bool:
    goals = {name: goal for name, goal in GOALS.get(case, {}).items() if name in figures}
    return all(
        figures[name] <= goal if name == "cpu_ms_per_tile" else figures[name] >= goal for name, goal in goals.items()
    )


def _case(case: str, size: Size, folder: Path, rounds: int, bare_s: float) -> dict[str, Any]:
    folder.mkdir()
    path = write_slide(folder / "slide.tif", repeats=size.repeats, mpp=_slide_mpp(case))
    with served(folder) as server:
        root = f"s3://{server.bucket}"
        bundle = _bundle(case, f"{root}/bundle")
        rows = upload_copies(path, f"{root}/slides", size.many)
        pid = server.process.pid if server.process else 0
        all_figures = [
            _round(case, size, path, root, f"{root}/out-{i}", bundle, rows, pid, bare_s) for i in range(rounds)
        ]
    names = [name for name in all_figures[0] if not name.startswith("_")]
    last = all_figures[-1]
    return {
        **{name: round(statistics.median(figures[name] for figures in all_figures), 3) for name in names},
        **{f"{name}_rounds": [round(figures[name], 3) for figures in all_figures] for name in GOALS.get(case, ())
           if rounds > 1 and name in names},
        **{name.removeprefix("_"): value for name, value in last.items() if name.startswith("_")},
        "tile_px": bundle.tiles.tile_px,
        "tile_mpp": bundle.tiles.mpp,
        "slide_bytes": path.stat().st_size,
    }  # fmt: skip


def _slide_mpp(case: str) -> float:
    return MPP if case == "real" else MPP_CASES.get(case, MPP_CASES["exact"])[0]


def _round(
    case: str, size: Size, path: Path, root: str, out: str, bundle: Bundle, rows: list[SlideRow], server_pid: int,
    bare_s: float,
) -> dict[str, Any]:  # fmt: skip
    """Measure a case once; the limit before and after, so that other load on the machine falls on all alike."""
    work = case, f"{root}/bundle", bundle, path
    before = _at_best(bare_rates, *work, bare_s)
    ours, cpu = _apart(_screened, case, root, out, bundle, rows, (size.few, size.few, size.many), server_pid)
    theirs = {
        peer: _apart(score_by_data_loader, *work, (size.peer_few, size.peer_many), peer)
        for peer in peers()
        if size.peer_many and (peer == "openslide" or case in MPP_CASES)
    }
    after = _at_best(bare_rates, *work, bare_s)
    bare = {name: (before[name] + after[name]) / 2 for name in before}
    decode_cpu_ms = bare.pop("decode_cpu_ms")
    limit = 1 / sum(1 / each for each in bare.values())
    rate, startup_s = _slope(ours[1:])
    peer_rates = {peer: _slope([run[:2] for run in runs])[0] for peer, runs in theirs.items()}
    peer_cpu_ms = {peer: 1000 / _slope([(n, cpu_s) for n, _, cpu_s in runs])[0] for peer, runs in theirs.items()}
    return {
        "over_limit": rate / limit,
        **{f"over_{peer}": rate / peer_rate for peer, peer_rate in peer_rates.items()},
        "cpu_ms_per_tile": sum(each for name, each in cpu.items() if name != "server"),
        "decode_cpu_ms_per_tile": decode_cpu_ms,
        **{f"{peer}_cpu_ms_per_tile": each for peer, each in peer_cpu_ms.items()},
        "limit_tiles_per_s": limit,
        **{f"{name}_tiles_per_s": value for name, value in bare.items()},
        "uadray_tiles_per_s": rate,
        **{f"{peer}_tiles_per_s": peer_rate for peer, peer_rate in peer_rates.items()},
        "first_s": ours[0][1],
        "startup_s": startup_s,
        "bare_after_over_before": after["decode"] / before["decode"],
        "_cpu_ms_per_tile_by_role": cpu,
        "_runs_tiles_seconds": [(n, round(seconds, 2)) for n, seconds in ours],
        "_peer_runs_tiles_seconds": {
            peer: [(n, round(seconds, 2)) for n, seconds, _ in runs] for peer, runs in theirs.items()
        },
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
    bundle = write_dpa_bundle(uri)
    if case == "real":
        return bundle
    # never loaded: it stands for the GPU's, and says how tiles are cut
    bundle = bundle.model_copy(update={"tiles": gpu_tiles(MPP_CASES.get(case, MPP_CASES["exact"])[1])})
    objects.write_bytes(objects.join(uri, "bundle.json"), bundle.model_dump_json().encode())
    write_calibration(uri, bundle)
    return bundle


def _screened(
    case: str, root: str, out: str, bundle: Bundle, rows: list[SlideRow], counts: tuple[int, ...], server_pid: int
) -> tuple[list[tuple[int, float]], dict[str, float]]:
    """Screen so many slides, for each count in turn, on one Ray.

    Returns:
        Tiles and seconds of each screening, with the start of its actors; and CPU milliseconds of each tile that the
        last screening has more than the one before, by the role of processes.
    """
    from uadray.cluster.connection import connect
    from uadray.screening.bundles import ScreeningBundle, read_calibration
    from uadray.screening.job import screen

    calibration = read_calibration(f"{root}/bundle", bundle)
    runs, spent = [], []
    with CpuMeter() as meter:
        began = time.perf_counter()
        connect()
        for i, n in enumerate(counts):
            before = _spent(meter, server_pid)
            summary = screen(
                rows[:n], bundles=[ScreeningBundle(f"{root}/bundle", bundle, calibration)], out=f"{out}-{i}",
                load=load_of(case),
            )  # fmt: skip
            if summary["scored"] != n:
                raise WorkError(f"the bench's own slides: {summary}")
            runs.append((int(summary["tiles_now"]), time.perf_counter() - began))
            spent.append({name: seconds - before.get(name, 0.0) for name, seconds in _spent(meter, server_pid).items()})
            began = time.perf_counter()
    more_tiles = max(1, runs[-1][0] - runs[-2][0])
    by_role = {name: seconds - spent[-2].get(name, 0.0) for name, seconds in spent[-1].items()}
    return runs, {name: round(1000 * seconds / more_tiles, 4) for name, seconds in by_role.items()}


def _spent(meter: CpuMeter, server_pid: int) -> dict[str, float]:
    return meter.seconds() | {"server": sum(cpu_seconds(server_pid).values())}
