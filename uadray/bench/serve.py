"""`bench serve`: the endpoint measured, overloaded, scaled and killed, with the ready detector, from a real S3 server.

- latency: tiles through the stages over one call of the detector in a process (`serve_latency`)
- slides: slides a minute over `uadray screen` (`serve_slides`); needs the mosaics of the development data
- load: twice its capacity for minutes (`serve_overload`)
- scale: a burst of slides, and bundles and options changed under load (`serve_scale`)
- kills: kill -9 of everything, the S3 server included, while it works (`serve_kills`)

Each runs in a process of its own with a Ray of its own.
"""

import importlib
import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from uadray.bench.serve_material import READY, material
from uadray.errors import InputError

PARTS = {
    "latency": "serve_latency", "slides": "serve_slides", "load": "serve_overload", "scale": "serve_scale",
    "kills": "serve_kills",
}  # fmt: skip
"""The modules that measure, each with `run(place) -> figures` and `GOALS`."""


def run(*, only: Sequence[str] = (), minutes: float | None = None) -> dict[str, Any]:
    """Measure; prints nothing. Takes some ten minutes on two idle cores.

    Args:
        only: of `PARTS`; all unless given.
        minutes: of the load; 2 unless given.

    Raises:
        InputError: there is no such part.
    """
    if unknown := set(only) - PARTS.keys():
        raise InputError(f"bench serve has no part {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    figures: dict[str, Any] = {"cores": os.cpu_count(), "bundle": READY, "load_average": round(os.getloadavg()[0], 1)}
    chosen = tuple(only) or tuple(PARTS)
    for part in chosen:
        options = {"minutes": minutes} if part == "load" and minutes else {}
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            figures[part] = pool.submit(_measured, part, options).result()
    goals = {part: _module(part).GOALS for part in chosen}
    return figures | {"goals": goals, "goals_met": all(figures[part]["met"] for part in chosen)}


def _measured(part: str, options: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="uadray-bench-") as folder, material(Path(folder)) as place:
        figures: dict[str, Any] = _module(part).run(place, **options)
    return figures


def _module(part: str) -> Any:
    return importlib.import_module(f"uadray.bench.{PARTS[part]}")
