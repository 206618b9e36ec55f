"""`bench screen`: a whole screening from S3 against what this machine could do at best, and against a plain DataLoader.

Each case, with the same slides, tiles and batch of 64 throughout:

- limit: 1 / (1/decode + 1/model), tiles a second of simplejpeg alone on all cores over the JPEG tiles that the wanted
  tiles lie in, each once, ready in memory; and of the detector alone on all cores, the better of one process with a
  thread a core and of one process a core. Storage, the tissue mask, evidence and commits cost nothing in it.
- uadray: `screening.screen` on Ray from SeaweedFS on this machine (whose CPU time counts here, and not in the limit)
  to SeaweedFS: leases, tile scores, pictures and decisions included.
- peer: a PyTorch DataLoader with a worker a core, each tile by OpenSlide from a local file, and the same detector. It
  gets the grid for nothing, downloads nothing and keeps only scores.

Cases: `real`, a detector of the size of `configs/train/dpa.yaml` (untrained: the same work) on its tiles of 96 px; and
`gpu`, a stand-in that takes 20 us a tile and no CPU (it sleeps, as a CPU does while a GPU works) on tiles of 256 px.

Steady state and start-up are told apart by doing the work twice, on few slides and on many: the rate is the difference
in tiles over the difference in seconds, so that what is paid once (processes, imports, weights, draining the pipeline)
cancels out and nothing is left out: whatever is paid by slide or by tile counts in full. The seconds that remain at the
smaller one are `startup_s`. A first screening of one slide starts Ray's processes (`first_s`).
"""

import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import simplejpeg
import torch
from torch.utils.data import DataLoader, Dataset

from uadray.bench.processes import cpu_by_role, cpu_seconds
from uadray.bench.seaweed import served
from uadray.bench.slides import gpu_tiles, upload_copies, write_calibration, write_dpa_bundle, write_slide
from uadray.cluster.connection import ENVIRONMENT
from uadray.detectors.bundle import Bundle, load_detector
from uadray.detectors.detector import BATCH, Scored
from uadray.detectors.pixels import Pixels, staged
from uadray.errors import WorkError
from uadray.slides.manifest import SlideRow
from uadray.slides.opening import open_slide
from uadray.slides.tiff.byte_source import open_source
from uadray.slides.tiff.index import read_index
from uadray.slides.tiff.read_ahead import touched_tiles
from uadray.slides.tile_reading import tile_places
from uadray.storage import objects
from uadray.tiles.plan import plan_slide
from uadray.tiles.spec import TileSpec

STAND_IN_S = 20e-6
"""Seconds a tile: a GPU that scores 50,000 tiles a second."""

GOALS = {"real": {"over_limit": 0.8, "over_peer": 1.1}, "gpu": {"over_limit": 0.5, "over_peer": 3.0}}
"""Least ratios of tiles per second."""

ROUNDS = 3
BARE_S = 4.0
"""How long each bare measurement takes, before and after the screening: other processes' load falls on both."""


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
"""450 tiles a slide for the detector that scores some tens a second; 12,000 (366 MB) for the one that scores 50,000: as
many as a section has. What a slide costs by itself (thumbnail, masks, pictures, commit) is not left out."""


class StandIn:
    """A detector as a GPU looks from the CPU, which copies tiles to where a GPU fetches them; then it takes its time.

    It takes no core meanwhile, and has one caller at a time.
    """

    def __init__(self) -> None:
        self._busy = threading.Lock()

    def __call__(self, pixels: Pixels) -> Scored:
        """Copy and sleep; then answer as a detector does, with mean colours as scores."""
        staged(pixels, pixels.shape[1])
        with self._busy:
            time.sleep(STAND_IN_S * len(pixels))
        corner = pixels[:, :8, :8].astype(np.float64)
        residual = np.zeros((len(pixels), 8, 8), np.float32)
        return Scored(corner.mean((1, 2, 3)), residual, lambda rows: (pixels[list(rows)], pixels[list(rows)]))


def load_stand_in(uri: str, bundle: Bundle, *, device: str = "cpu") -> StandIn:
    """In the place of `load_detector`."""
    return StandIn()


LOADS: dict[str, Callable[..., Any]] = {"real": load_detector, "gpu": load_stand_in}


def run(*, sizes: dict[str, Size] = SIZES, rounds: int = ROUNDS, bare_s: float = BARE_S) -> dict[str, Any]:
    """Measure; prints nothing. About twenty minutes on two idle cores.

    Args:
        sizes: of the cases.
        rounds: limit, uadray and peer one after the other, each on fresh processes; ratios are medians over rounds.
        bare_s: seconds of each bare measurement.
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
        found = [_round(case, size, path, root, f"{root}/out-{i}", bundle, rows, pid, bare_s) for i in range(rounds)]
    return {
        **{name: round(statistics.median(each[name] for each in found), 3) for name in found[0] if name[0] != "_"},
        **{f"{name}_rounds": [round(each[name], 3) for each in found] for name in GOALS[case]},
        "cpu_ms_per_tile": found[-1]["_cpu"],
        "runs_tiles_seconds": found[-1]["_runs"],
        "peer_runs_tiles_seconds": found[-1]["_peer_runs"],
        "tile_px": bundle.tiles.tile_px,
        "slide_bytes": path.stat().st_size,
    }


def _round(
    case: str, size: Size, path: Path, root: str, out: str, bundle: Bundle, rows: list[SlideRow], server_pid: int,
    bare_s: float,
) -> dict[str, Any]:  # fmt: skip
    """All of a case once, the limit before and after, so that a load from outside falls on all alike."""
    work = case, f"{root}/bundle", bundle, path
    before = _at_best(_bare, *work, bare_s)
    ours, cpu = _apart(_screened, case, root, out, bundle, rows, (1, size.few, size.many), server_pid)
    peer = _apart(_by_data_loader, *work, (size.peer_few, size.peer_many))
    after = _at_best(_bare, *work, bare_s)
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
    """Tiles a second of what the larger run did more than the smaller; the seconds of the smaller beside its tiles."""
    (few, few_s), (many, many_s) = runs
    rate = (many - few) / max(many_s - few_s, 1e-9)
    return rate, few_s - few / rate


def _at_best(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call it apart, with the settings of the C library that the screening has: they make the limit higher."""
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    try:
        return _apart(function, *arguments)
    finally:
        for name in ENVIRONMENT:
            os.environ.pop(name)
        os.environ.update(before)


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call it in a process of its own: what one measurement leaves in memory, another must not find."""
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
    """Screen so many slides, one count after the other on one Ray; tiles and seconds, start of actors included.

    And the CPU time of the last of them, in ms a tile, by who spent it; of processes that ended meanwhile nothing is
    known.
    """
    from uadray.cluster.connection import connect
    from uadray.commands.calibrate import read_calibration
    from uadray.screening.bundles import ScreeningBundle
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
    spent["reader"] = spent.pop("reader", 0.0) + spent.pop("idle", 0.0)  # what has just read is idle now
    spent["server"] = cpu_by_role(server_pid, before)["driver"]
    return runs, {name: round(1000 * seconds / runs[-1][0], 4) for name, seconds in spent.items()}


def _places(path: Path, spec: TileSpec) -> pa.Table:
    with open_slide(path, slide_id="bench") as slide:
        return plan_slide(slide, etag="", spec=spec).tiles


def _bare(case: str, bundle_uri: str, bundle: Bundle, path: Path, seconds: float) -> dict[str, float]:
    """Tiles a second of decoding alone and of the detector alone."""
    tiles = _places(path, bundle.tiles)
    jpegs = _jpegs(path, tiles, bundle.tiles)
    cores = os.cpu_count() or 1
    decode = _rate(lambda: _decode_all(jpegs, cores), len(tiles), seconds)
    if case == "gpu":
        return {"decode": decode, "model": 1 / STAND_IN_S}
    torch.set_num_threads(cores)
    one = _model_rate(bundle_uri, bundle, cores, seconds)
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(_model_rate, bundle_uri, bundle, 1, seconds) for _ in range(cores)]
        apart = sum(job.result() for job in jobs)
    return {"decode": decode, "model": max(one, apart)}


def _model_rate(bundle_uri: str, bundle: Bundle, threads: int, seconds: float) -> float:
    torch.set_num_threads(threads)
    detector = load_detector(bundle_uri, bundle)
    side = bundle.tiles.tile_px
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, side, side, 3), np.uint8)
    return _rate(lambda: detector(pixels), BATCH, seconds)


def _rate(work: Callable[[], Any], n: int, seconds: float) -> float:
    """Median of n over the seconds of one call, called for so long, after once to warm up."""
    work()
    times: list[float] = []
    while sum(times) < seconds:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return n / statistics.median(times)


def _jpegs(path: Path, tiles: pa.Table, spec: TileSpec) -> list[bytes]:
    """The file's JPEG tiles that these tiles lie in, each once, as streams that stand alone."""
    with open_slide(path, slide_id="bench") as slide:
        corners = (tiles[name].to_numpy() for name in ("x_level0_px", "y_level0_px"))
        places = tile_places(slide, *corners, mpp=spec.mpp, tile_px=spec.tile_px)
    source = open_source(str(path))
    index = read_index(source)
    if index is None:
        raise WorkError(f"{path}: the bench's own slide is not read by the fast path")
    level = index.levels[places.level]
    wanted = np.unique(touched_tiles(level, places.boxes)[1])
    starts = level.offsets[wanted]
    blobs = source.read(list(zip(starts.tolist(), (starts + level.lengths[wanted]).tolist(), strict=True)))
    source.close()
    return [level.tables[:-2] + blob[2:] for blob in blobs]


def _decode_all(jpegs: list[bytes], threads: int) -> None:
    """It works outside the interpreter's lock: threads scale, and start at once."""

    def decode(part: list[bytes]) -> None:
        for jpeg in part:
            simplejpeg.decode_jpeg(jpeg, colorspace="RGB")

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, [jpegs[i::threads] for i in range(threads)]))


class OpenSlideTiles(Dataset[Any]):
    """What one writes first: item i is tile i, by OpenSlide, opened once a worker and slide."""

    def __init__(self, paths: list[Path], level: int, corners: list[tuple[int, int]], tile_px: int) -> None:
        self.paths, self.level, self.corners, self.tile_px = paths, level, corners, tile_px
        self._handles: dict[Path, Any] = {}

    def __len__(self) -> int:
        return len(self.paths) * len(self.corners)

    def __getitem__(self, index: int) -> Any:
        import openslide

        slide, place = divmod(index, len(self.corners))
        path = self.paths[slide]
        if path not in self._handles:
            self._handles[path] = openslide.OpenSlide(str(path))
        region = self._handles[path].read_region(self.corners[place], self.level, (self.tile_px, self.tile_px))
        return torch.from_numpy(np.asarray(region.convert("RGB")).copy())


def _by_data_loader(
    case: str, bundle_uri: str, bundle: Bundle, path: Path, counts: tuple[int, ...]
) -> list[tuple[int, float]]:
    """Score the tiles of so many slides; tiles and seconds of each, start of the workers included."""
    spec = bundle.tiles
    torch.set_num_threads(os.cpu_count() or 1)
    detector = LOADS[case](bundle_uri, bundle)
    tiles = _places(path, spec)
    corners = list(zip(tiles["x_level0_px"].to_pylist(), tiles["y_level0_px"].to_pylist(), strict=True))
    with open_slide(path, slide_id="bench") as slide:
        level = tile_places(slide, [0], [0], mpp=spec.mpp, tile_px=spec.tile_px).level
    runs = []
    for n in counts:
        paths = [path.with_name(f"copy{i}.tif") for i in range(n)]
        for copy in paths:
            if not copy.exists():
                copy.hardlink_to(path)
        began, scores = time.perf_counter(), []
        dataset = OpenSlideTiles(paths, level, corners, spec.tile_px)
        for batch in DataLoader(dataset, batch_size=BATCH, num_workers=os.cpu_count() or 1):
            scores.append(detector(batch.numpy()).score)
        runs.append((len(np.concatenate(scores)), time.perf_counter() - began))
    return runs
