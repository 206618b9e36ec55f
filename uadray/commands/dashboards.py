"""`uadray dashboards`: write the dashboards' JSON, or say which files are stale."""

import json
from pathlib import Path
from typing import Any

from uadray.errors import WorkError
from uadray.monitoring.dashboards import archive, calibration, cost, endpoint, slowness, training

DASHBOARDS = (archive, slowness, endpoint, training, calibration, cost)


def texts() -> dict[str, str]:
    """File name -> JSON, sorted by key, so that a change shows as what changed."""
    return {f"{made.NAME}.json": json.dumps(made.make(), indent=2, sort_keys=True) + "\n" for made in DASHBOARDS}


def run(out: str, *, check: bool) -> dict[str, Any]:
    """Write the files into the folder `out`; with `check` only compare.

    Raises:
        WorkError: with `check`, a file is missing or differs.
    """
    folder, made = Path(out), texts()
    if check:
        stale = [name for name, text in made.items() if _text_of(folder / name) != text]
        if stale:
            raise WorkError(f"stale in {folder}: {', '.join(stale)}; run `uadray dashboards --out {folder}`")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in made.items():
            (folder / name).write_text(text, encoding="utf-8")
    return {"out": out, "dashboards": sorted(made)}


def _text_of(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
