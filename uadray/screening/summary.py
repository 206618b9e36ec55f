"""A screening's files for people: `decisions.parquet`, the worklist as a page and as CSV, and `summary.json`."""

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from uadray import __version__
from uadray.decisions.conformal import Calibration
from uadray.detectors.bundle import Bundle
from uadray.metrics import STATES
from uadray.reports import worklist
from uadray.screening.slide_outputs import parquet
from uadray.storage import objects

DECISIONS, WORKLIST = "decisions.parquet", "worklist.html"


def write_summary(
    folder: str, decisions: pa.Table, *, n_slides: int, bundle: Bundle, facts: worklist.Run
) -> dict[str, Any]:
    """Write the files for people; returns what `summary.json` says, `why_failed` and the URI of the page.

    Args:
        folder: where they go.
        decisions: rows of `SLIDE_DECISIONS`, of what is decided.
        n_slides: of the manifest.
        bundle: that scored.
        facts: what the page says about the screening, see `page_facts`.
    """
    counts = summarize(decisions, n_slides=n_slides)
    page = objects.join(folder, WORKLIST)
    objects.write_bytes(objects.join(folder, DECISIONS), parquet(decisions))
    html = worklist.render_worklist(decisions, title=f"Worklist: {bundle.name}", run=facts)
    objects.write_bytes(page, html.encode(), content_type="text/html; charset=utf-8")
    table = worklist.worklist_csv(decisions).encode()
    objects.write_bytes(objects.join(folder, "worklist.csv"), table, content_type="text/csv")
    objects.write_bytes(objects.join(folder, "summary.json"), json.dumps(counts, indent=1).encode())
    why = {"why_failed": _first_failures(decisions)} if counts["failed"] else {}
    return counts | why | {"worklist": page}


def summarize(decisions: pa.Table, *, n_slides: int) -> dict[str, Any]:
    """Counts of slides by state (with `open` they add up to the manifest), anomalous ones, and failures by reason."""
    states, verdicts = (Counter(decisions[name].to_pylist()) for name in ("state", "decision"))
    failed = decisions.filter(pc.equal(decisions["state"], "failed"))
    return {
        "slides": n_slides,
        **{state: states[state] for state in STATES},
        "open": n_slides - len(decisions),
        "anomalous": verdicts["anomalous"],
        "failures": dict(Counter(failed["reason"].to_pylist()).most_common()),
    }


def page_facts(
    bundle: Bundle, calibration: Calibration, *, fingerprint: str, started: str, n_slides: int
) -> worklist.Run:
    """What the page says about the screening."""
    return {
        "bundle": bundle.name,
        "detector": bundle.detector.kind,
        "alpha": calibration.alpha,
        "n_calibration": len(calibration.scores),
        "calibration_id": calibration.id,
        "version": __version__,
        "fingerprint": fingerprint,
        "started": started,
        "finished": now(),
        "n_manifest": n_slides,
        "tile_um": bundle.tiles.tile_px * bundle.tiles.mpp,
        "score_low": calibration.tile_median,
        "score_high": calibration.tile_high,
        "tile_threshold": calibration.tile_p99,
    }


def now() -> str:
    """The time, as people read it."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _first_failures(decisions: pa.Table, n: int = 3) -> str:
    """The first slides that failed, each with its reason, and how many more."""
    columns = decisions.filter(pc.equal(decisions["state"], "failed")).select(["slide_id", "reason", "message"])
    failed = columns.to_pylist()
    named = "; ".join(f"{row['slide_id']}: {row['reason']}: {row['message']}"[:300] for row in failed[:n])
    return named + (f" and {len(failed) - n} more" if len(failed) > n else "")
