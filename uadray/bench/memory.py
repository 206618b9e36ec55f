"""`bench memory`: whether the memory of a screening grows with the archive: peak RSS at 10 and at 200 slides.

The job is `uadray screen` as a user runs it, with one reader and one scorer on the Ray that it starts. The driver,
Ray's processes and the workers all descend from one process; their memory is read from /proc five times a second.
Memory that processes share through the object store is counted separately (`Memory`), since the store has a limit and
fills up to it whatever the archive is. Slides are small (a few hundred tiles), so that memory kept for each slide
shows. A screening of two slides runs first and fills the page cache.
"""

import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from uadray.bench.processes import Memory, descendants, memory, role
from uadray.bench.slides import upload_copies, write_slide, write_tiny_bundle
from uadray.errors import WorkError
from uadray.slides.manifest import write_manifest

GOALS = {"growth": 1.10}
"""The most that the peak at `many` slides may be, over the peak at `few`."""

SCREEN = "import sys; from uadray.cli import main; sys.exit(main())"


def run(*, few: int = 10, many: int = 200) -> dict[str, Any]:
    """Measure; prints nothing. Takes a few minutes.

    Returns:
        Peaks in MB: of the whole job, of the object store, and of each kind of process at its own peak.
    """
    with tempfile.TemporaryDirectory(prefix="uadray-bench-") as name:
        folder = Path(name)
        write_tiny_bundle(str(folder / "bundle"))
        path = write_slide(folder / "slide.tif", repeats=2, phantom_px=512)
        rows = upload_copies(path, str(folder / "slides"), many)
        peaks = {}
        for n in (2, few, many):
            write_manifest(rows[:n], str(folder / f"{n}.csv"))
            peaks[n] = _peaks(folder, n)
    growth = peaks[many]["job"] / peaks[few]["job"]
    return {
        "slides": {"few": few, "many": many},
        "peak_mb_few": peaks[few],
        "peak_mb_many": peaks[many],
        "growth": round(growth, 3),
        "goals": GOALS,
        "goals_met": growth <= GOALS["growth"],
    }


def _peaks(folder: Path, n: int) -> dict[str, float]:
    command = [
        *(sys.executable, "-c", SCREEN, "screen", str(folder / "bundle"), "--slides", str(folder / f"{n}.csv")),
        *("--out", str(folder / f"out-{n}"), "--score-workers", "1"),
    ]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with (folder / f"{n}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=kept)
        peak: Counter[str] = Counter()
        while process.poll() is None:
            for name, size in _by_role(process.pid).items():
                peak[name] = max(peak[name], size)
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
    if process.returncode:
        raise WorkError(f"the screening of {n} slides failed: {(folder / f'{n}.log').read_text()[-2000:]}")
    return {name: round(size / 1e6, 1) for name, size in sorted(peak.items())}


def _by_role(pid: int) -> Counter[str]:
    """Bytes now: of the whole job (`job`), of each kind of process, and of the object store."""
    sizes: Counter[str] = Counter()
    for process in descendants(pid):
        size: Memory = memory([process])
        sizes["job"] += size.private
        sizes["driver" if process == pid else role(process)] += size.private
        sizes["object_store"] = max(sizes["object_store"], size.shared)
    return sizes
