"""`bench memory`: does a screening's memory grow with the archive? Peak RSS of the whole job at 10 and at 200 slides.

The job is `uadray screen` as a user runs it, on a Ray of its own with one reader and one scorer: driver, Ray's own
processes and workers, all descendants of one process, read from /proc from outside five times a second. What a process
shares with others by the object store is told apart (`Memory`): the store has its own bound, and is filled as far as
there are blocks. Slides are small (some hundred tiles), so that what is kept for each slide shows; a screening of two
slides runs before, so that nobody is the first to fill the page cache.
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
"""Most that the peak at `many` slides may be, over the peak at `few`."""

SCREEN = "import sys; from uadray.cli import main; sys.exit(main())"


def run(*, few: int = 10, many: int = 200) -> dict[str, Any]:
    """Measure; prints nothing. Some minutes.

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
    """Bytes now, of the job in all (`job`), of each kind of process, and of the object store."""
    sizes: Counter[str] = Counter()
    for each in descendants(pid):
        found: Memory = memory([each])
        sizes["job"] += found.own
        sizes["driver" if each == pid else role(each)] += found.own
        sizes["object_store"] = max(sizes["object_store"], found.shared)
    return sizes
