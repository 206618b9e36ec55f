"""The benchmarks by name. Each measures ratios against a named limit or peer in one run, with goals.

Each module of `NAMES` has `run() -> dict`: figures, `goals` and `goals_met`. `uadray bench NAME` prints it.
"""

import importlib
from typing import Any

from uadray.errors import InputError

NAMES = ("decode", "s3", "screen", "ingest", "memory", "nodes")


def run(name: str) -> dict[str, Any]:
    """Run one benchmark.

    Raises:
        InputError: there is none of this name.
    """
    if name not in NAMES:
        raise InputError(f"no benchmark {name!r}; there are: {', '.join(NAMES)}")
    figures: dict[str, Any] = importlib.import_module(f"uadray.bench.{name}").run()
    return {"bench": name} | figures
