"""The benchmarks by name. Each measures ratios against a named limit or peer in one run, and has goals.

A name is that of a module in `uadray.bench` (with _ for -) with a function `run() -> dict`, which returns figures,
`goals` and `goals_met`; `uadray bench NAME` prints them.
"""

import importlib
from collections.abc import Sequence
from typing import Any

from uadray.errors import InputError

OF_DETECTORS = (
    "only", "device", "seeds", "minutes", "out", "bundle", "generator", "tiles_only", "scoring_minutes", "valid_tiles",
)  # fmt: skip

OPTIONS: dict[str, tuple[str, ...]] = {
    "decode": ("only",),
    "stages": ("device",),
    "s3": ("only",),
    "screen": ("only",),
    "bundles": (),
    "ingest": ("only",),
    "memory": (),
    "nodes": (),
    "partition": ("slides", "out"),
    "faults": ("only",),
    "archive": ("slides",),
    "follow": ("only", "slides"),
    "detectors": OF_DETECTORS,
    "one-against-all": ("only", "device", "classes", "minutes", "out"),
    "scoring": ("only", "device", "compiled"),
    "stains": ("only", "device", "seeds", "out"),
    "ablations": ("only", "device", "seeds", "steps", "out", "valid_tiles", "small"),
    "findings": ("only", "device", "seeds", "minutes", "out", "valid_tiles"),
    "view": (),
    "worklist": ("slides",),
    "metrics": ("only", "slides"),
    "drift": ("only",),
    "calibration": ("only",),
    "serve": ("only", "minutes"),
    "alerts": ("only",),
    "tune": ("only", "out"),
    "train": ("only", "device", "small"),
    "export": ("only", "slides"),
}
"""The benchmarks, and which options each takes."""


def run(
    name: str, *, only: Sequence[str] = (), slides: int | None = None, device: str | None = None,
    seeds: int | None = None, minutes: float | None = None, out: str | None = None, bundle: Sequence[str] = (),
    generator: Sequence[str] = (), tiles_only: bool = False, scoring_minutes: float | None = None,
    valid_tiles: int | None = None, classes: int | None = None, steps: int | None = None,
    compiled: bool = False, small: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Run one benchmark and return its figures.

    Args:
        name: of `OPTIONS`.
        only: names of scenarios or cases; all unless given.
        slides: how many there are; as many as the benchmark takes by itself unless given.
        device: "cpu" or "cuda".
        seeds: trainings of each detector.
        minutes: budget of each training, or of the load of `serve`.
        out: folder of the results.
        bundle: NAME=URI of bundles that were trained elsewhere.
        generator: NAME=URI of trained generators, for mappings over them.
        tiles_only: leave mosaics out.
        scoring_minutes: that a row is scored at the most.
        valid_tiles: that are scored at the most.
        compiled: time compiled networks as well.
        classes: that are normal in their turn.
        steps: of each training.
        small: a small network and batch, for two cores.

    Raises:
        InputError: there is none of this name, or it has no such option.
    """
    if name not in OPTIONS:
        raise InputError(f"no benchmark {name!r}; there are: {', '.join(OPTIONS)}")
    given = {
        "only": only, "slides": slides, "device": device, "seeds": seeds, "minutes": minutes, "out": out,
        "bundle": bundle, "generator": generator, "tiles_only": tiles_only, "scoring_minutes": scoring_minutes,
        "valid_tiles": valid_tiles, "classes": classes, "steps": steps, "compiled": compiled, "small": small,
    }  # fmt: skip
    options = {option: value for option, value in given.items() if value}
    for option in options.keys() - set(OPTIONS[name]):
        takers = ", ".join(other for other, its in OPTIONS.items() if option in its)
        raise InputError(f"bench {name} takes no --{option.replace('_', '-')}; it is for {takers}")
    figures: dict[str, Any] = importlib.import_module(f"uadray.bench.{name.replace('-', '_')}").run(**options)
    return {"bench": name} | figures
