"""A screening's folder decided anew by processes that are killed: `python recalibrations.py FOLDER`.

Each process is a fork that kills itself with SIGKILL before its n-th write, for every n until one gets through. After
each, a look at what lies there, and a second process that goes on. Prints one JSON list: what was seen.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import scipy.stats  # noqa: F401 - once, before processes are forked
import screening_drivers as sd

from uadray.decisions.aggregation import AggregationConfig
from uadray.decisions.conformal import Calibration
from uadray.screening import decision_segments, recalibration
from uadray.screening.bundles import ScreeningBundle
from uadray.screening.ledger import Ledger, open_ledger
from uadray.storage import objects

OLD = sd.CALIBRATION.model_copy(update={"aggregation": AggregationConfig(min_tiles=2)})
NEW = OLD.model_copy(update={"id": "new", "alpha": 0.5})
"""Calls a slide from the third score on, `OLD` above it alone."""

WRITES = ("put_if_absent", "replace_if_match", "write_bytes", "delete", "delete_all")


def panel(*bundles: sd.Bundle, calibration: Calibration = NEW) -> tuple[ScreeningBundle, ...]:
    """The bundles of `sd.panel` with this calibration."""
    own = [calibration.model_copy(update={"bundle_id": each.bundle.id, "id": calibration.id + each.folder})
           for each in sd.panel(*bundles)]  # fmt: skip
    return tuple(replace(each, calibration=its) for each, its in zip(sd.panel(*bundles), own, strict=True))


def book(out: str, *bundles: sd.Bundle) -> Ledger:
    """Open the ledger as `uadray screen` does with the bundles as they are: with their old calibration."""
    return open_ledger(out, panel(*bundles, calibration=OLD))


def redecide(out: str, *bundles: sd.Bundle, same_scores: bool = False, **more: Any) -> dict[str, Any]:
    """Decide a folder anew."""
    own = {each.bundle.id: each.calibration.id for each in panel(*bundles, calibration=OLD)}
    old = frozenset(own.values() if same_scores else [])
    with recalibration.alone_in(out) as process:
        return recalibration.redecide(out, panel(*bundles), process=process, same_scores=old, more=more, own=own)


def in_a_process(do: Callable[[], object], *, dies_before: int | None = None) -> int:
    """Fork a process that does this; returns how it ended."""
    child = os.fork()
    if child == 0:
        try:
            if dies_before is not None:
                _die_before(dies_before)
            do()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _die_before(n: int) -> None:
    left = [n]

    def counting(write: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return write(*args, **options)

        return call

    for name in WRITES:
        setattr(objects, name, counting(getattr(objects, name)))


def seen(out: str) -> dict[str, Any]:
    """What lies in a folder: of each slide the calibration that decided, and whether it is being decided anew."""
    table = decision_segments.read_decisions(out).table.sort_by("slide_id")
    record = json.loads(objects.read_bytes(f"{out}/run.json"))
    return {
        "calibrations": dict(zip(table["slide_id"].to_pylist(), table["calibration_id"].to_pylist(), strict=True)),
        "p_values": table["p_value"].to_pylist(),
        "recalibrating": bool(record.get("recalibrating")),
        "before": objects.exists(f"{out}/recalibrated/cal/decisions.parquet"),
    }


def main(folder: Path) -> list[dict[str, Any]]:
    """Kill it before each write, look, and go on."""
    os.fsync = lambda _: None  # type: ignore[assignment]  # nothing here is about a disk
    recalibration.REQUESTS = 1  # one write after the other
    shutil.copytree(folder / "screened", folder / "first")
    redecide(str(folder / "first"))  # templates are read once, before processes are forked
    steps, n = [], 0
    while not steps or steps[-1]["code"] != 0:
        out = str(folder / f"killed{n}")
        shutil.copytree(folder / "screened", out)
        code = in_a_process(lambda out=out: redecide(out), dies_before=n)  # type: ignore[misc]
        after_kill = seen(out)
        again = in_a_process(lambda out=out: redecide(out))  # type: ignore[misc]
        steps.append({"code": code, "again": again, "killed": after_kill, "ended": seen(out)})
        n += 1
    return steps


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
