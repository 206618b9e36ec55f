"""The benchmarks by name. Each measures ratios against a named limit or peer in one run, and has goals.

A name is that of a module in `uadray.bench` with a function `run() -> dict`, which returns figures, `goals` and
`goals_met`; `uadray bench NAME` prints them.
"""

import importlib
from collections.abc import Sequence
from typing import Any

from uadray.errors import InputError

NAMES = ("decode", "s3", "screen", "bundles", "ingest", "memory", "nodes", "faults", "archive")


def run(name: str, *, only: Sequence[str] = (), slides: int | None = None) -> dict[str, Any]:
    """Run one benchmark and return its figures.

    Args:
        name: of `NAMES`.
        only: names of the scenarios of `faults`; all unless given.
        slides: of `archive`.

    Raises:
        InputError: there is none of this name, or it has no such option.
    """
    if name not in NAMES:
        raise InputError(f"no benchmark {name!r}; there are: {', '.join(NAMES)}")
    if only and name != "faults":
        raise InputError(f"bench {name} has no scenarios; --only is for `uadray bench faults`")
    if slides is not None and name != "archive":
        raise InputError(f"bench {name} has its own slides; --slides is for `uadray bench archive`")
    options: dict[str, Any] = ({"only": only} if only else {}) | ({} if slides is None else {"slides": slides})
    figures: dict[str, Any] = importlib.import_module(f"uadray.bench.{name}").run(**options)
    return {"bench": name} | figures
