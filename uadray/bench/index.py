"""The benchmarks by name. Each measures ratios against a named limit or peer in one run, and has goals.

A name is that of a module in `uadray.bench` with a function `run() -> dict`, which returns figures, `goals` and
`goals_met`; `uadray bench NAME` prints them.
"""

import importlib
from collections.abc import Sequence
from typing import Any

from uadray.errors import InputError

NAMES = ("decode", "stages", "s3", "screen", "bundles", "ingest", "memory", "nodes", "faults")

WITH_CASES = ("faults", "screen", "s3", "ingest")
"""Those that take `only`."""


def run(name: str, *, only: Sequence[str] = (), device: str | None = None) -> dict[str, Any]:
    """Run one benchmark and return its figures.

    Args:
        name: of `NAMES`.
        only: names of the scenarios of `faults`, or of the cases of those in `WITH_CASES`; all unless given.
        device: of `stages`.

    Raises:
        InputError: there is none of this name, or it has no scenarios, cases or device.
    """
    if name not in NAMES:
        raise InputError(f"no benchmark {name!r}; there are: {', '.join(NAMES)}")
    if only and name not in WITH_CASES:
        raise InputError(f"bench {name} has no scenarios; --only is for {', '.join(WITH_CASES)}")
    if device and name != "stages":
        raise InputError(f"bench {name} has no device; --device is for `uadray bench stages`")
    options: dict[str, Any] = ({"only": only} if only else {}) | ({"device": device} if device else {})
    figures: dict[str, Any] = importlib.import_module(f"uadray.bench.{name}").run(**options)
    return {"bench": name} | figures
