"""`bench memory`: how much memory a screening takes, whether that grows with the archive, and which process takes it.

The job is `uadray screen` as a user runs it, with a small autoencoder, on the Ray that it starts. The driver, Ray's
processes and the workers all descend from one process; their memory is read from /proc five times a second. Pages that
several processes map count once (`processes.Memory`), those of the object store by themselves. Slides are small (some
tens of tiles), so that memory kept for each slide shows. A screening of two slides runs first and fills the page cache.
`large` is another screening, of fewer tiles of 256 px, which fill the object store.
"""

import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from uadray.bench.processes import descendants, memory, role
from uadray.bench.slides import gpu_tiles, upload_copies, write_calibration, write_slide
from uadray.config import parse_config
from uadray.detectors.building import build_networks
from uadray.detectors.bundle import write_bundle
from uadray.errors import WorkError
from uadray.slides.manifest import write_manifest
from uadray.tiles.spec import TileSpec
from uadray.training.config import TrainConfig, detector_of

GOALS = {"growth": 1.10, "peak_mb": 1611}
"""The most that the peak at `many` slides may be, over the peak at `few`; and that peak, 1.5 GiB."""

TRAIN = {
    "name": "autoencoder",
    "detector": {
        "kind": "dpa", "input_px": 64, "backbone": "efficientnet_lite0", "layers": ["block0", "block2"],
        "latent_channels": 8,
    },
    "tiles": {"mpp": 1.0, "tile_px": 64, "stride_px": 64, "min_tissue": 0.5},
}  # fmt: skip

SCREEN = "import sys; from uadray.cli import main; sys.exit(main())"


def run(*, few: int = 10, many: int = 200, large: int = 12) -> dict[str, Any]:
    """Measure; prints nothing. Takes a few minutes.

    Args:
        few: slides of the smaller screening.
        many: slides of the larger one.
        large: slides of 270 tiles of 256 px, of the screening that fills the object store.

    Returns:
        Peaks in MB: of the whole job, and of each kind of process and the object store, each at its own peak
        (`peak_mb_...`) and at the job's (`at_peak_mb_...`).
    """
    with tempfile.TemporaryDirectory(prefix="uadray-bench-") as name:
        folder = Path(name)
        _write_bundle(folder / "autoencoder", None)
        _write_bundle(folder / "256", gpu_tiles())
        small = upload_copies(write_slide(folder / "s.tif", repeats=2, phantom_px=512), str(folder / "small"), many)
        for n in (2, few, many):
            write_manifest(small[:n], str(folder / f"{n}.csv"))
        write_manifest(
            upload_copies(write_slide(folder / "l.tif", repeats=3), str(folder / "large"), large), f"{folder}/large.csv"
        )
        _peaks(folder, "autoencoder", "2")
        peaks = {n: _peaks(folder, "autoencoder", str(n)) for n in (few, many)}
        figures = {"few": peaks[few], "many": peaks[many], "large": _peaks(folder, "256", "large")}
    growth = peaks[many][0]["job"] / peaks[few][0]["job"]
    return {
        "slides": {"few": few, "many": many, "large": large},
        **{f"peak_mb_{name}": own for name, (own, _) in figures.items()},
        **{f"at_peak_mb_{name}": together for name, (_, together) in figures.items()},
        "growth": round(growth, 3),
        "goals": GOALS,
        "goals_met": growth <= GOALS["growth"] and peaks[many][0]["job"] <= GOALS["peak_mb"],
    }


def _write_bundle(folder: Path, tiles: TileSpec | None) -> None:
    """Write an untrained bundle, for its own tiles or others."""
    config = parse_config(TrainConfig, TRAIN, source="uadray.bench.memory")
    detector = detector_of(config)
    spec = tiles or config.tiles
    bundle = write_bundle(str(folder), build_networks(detector), name="autoencoder", detector=detector, tiles=spec)
    write_calibration(str(folder), bundle)


def _peaks(folder: Path, bundle: str, manifest: str) -> tuple[dict[str, float], dict[str, float]]:
    """MB of the job, of each kind of process and of the object store: each at its own peak, and at the job's."""
    command = [
        *(sys.executable, "-c", SCREEN, "screen", str(folder / bundle), "--slides", str(folder / f"{manifest}.csv")),
        *("--out", str(folder / f"out-{manifest}")),
    ]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own: Counter[str] = Counter()
    together: Counter[str] = Counter()
    with (folder / f"{manifest}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=kept)
        while process.poll() is None:
            sizes = _by_role(process.pid)
            if sizes["job"] > own["job"]:
                together = sizes
            own |= sizes
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
    if process.returncode:
        raise WorkError(f"the screening of {manifest} failed: {(folder / f'{manifest}.log').read_text()[-2000:]}")
    return _in_mb(own), _in_mb(together)


def _in_mb(sizes: Counter[str]) -> dict[str, float]:
    return {name: round(size / 1e6, 1) for name, size in sizes.most_common()}


def _by_role(pid: int) -> Counter[str]:
    """Bytes now: of the whole job (`job`), of each kind of process, and of the object store."""
    sizes: Counter[str] = Counter()
    for process in descendants(pid):
        size = memory(process)
        sizes["job"] += size.own + size.shared
        sizes["driver" if process == pid else role(process)] += size.own
        sizes["object_store"] += size.shared
    return sizes
