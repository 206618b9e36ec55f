"""`uadray dashboards`: write the dashboards' JSON and a list of their panels, or say which files are stale."""

import json
from pathlib import Path
from typing import Any

from uadray.errors import WorkError
from uadray.monitoring.dashboards import archive, calibration, cost, endpoint, slowness, training

DASHBOARDS = (archive, slowness, endpoint, training, calibration, cost)


PANELS = "PANELS.md"


def texts() -> dict[str, str]:
    """File name -> JSON of each dashboard, sorted by key, so that a change shows as what changed."""
    return {f"{made.NAME}.json": json.dumps(made.make(), indent=2, sort_keys=True) + "\n" for made in DASHBOARDS}


def listing() -> str:
    """Every panel and what it says, in Markdown."""
    lines = ["# Every panel", "", "Written by `uadray dashboards`, from what each panel says of itself."]
    for made in (each.make() for each in DASHBOARDS):
        lines += ["", f"## {made['title']}", "", made["description"]]
        for panel in made["panels"]:
            if panel["type"] == "row":
                lines += ["", f"**{panel['title']}**", ""]
            else:
                lines.append(f"- *{panel['title']}*. {panel['description']}")
    return "\n".join(lines) + "\n"


def run(out: str, *, check: bool) -> dict[str, Any]:
    """Write the files into the folder `out`; with `check` only compare.

    Raises:
        WorkError: with `check`, a file is missing or differs.
    """
    folder, made = Path(out), texts() | {PANELS: listing()}
    if check:
        stale = [name for name, text in made.items() if _text_of(folder / name) != text]
        if stale:
            raise WorkError(f"stale in {folder}: {', '.join(stale)}; run `uadray dashboards --out {folder}`")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in made.items():
            (folder / name).write_text(text, encoding="utf-8")
    return {"out": out, "dashboards": sorted(texts())}


def _text_of(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
