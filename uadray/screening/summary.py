"""A screening's files for people: `decisions.parquet`, the worklist as a page and as CSV, and `summary.json`."""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from uadray import __version__
from uadray.decisions.verdict import STATES
from uadray.errors import InputError
from uadray.reports import worklist
from uadray.reports.entries import DIFFERENCE_KINDS, NORMAL_KINDS
from uadray.reports.viewer_links import bundle_address, checked_viewer
from uadray.screening import combination
from uadray.screening.archive_columns import FDR, largest_group, of_the_archive, write_discoveries
from uadray.screening.bundles import ScreeningBundle
from uadray.screening.slide_outputs import parquet
from uadray.screening.worklist_files import write_worklist
from uadray.storage import objects

DECISIONS, SUMMARY = "decisions.parquet", "summary.json"


def write_summaries(
    out: str, bundles: Sequence[ScreeningBundle], decisions: Sequence[pa.Table], *, n_slides: int,
    provenance: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Write the files for people, of several bundles in a folder for each and a summary of all above them.

    Args:
        out: the screening's folder.
        bundles: of the screening.
        decisions: of each bundle, rows of `SLIDE_DECISIONS`: the same slides in the same order.
        n_slides: of the manifest.
        provenance: what `run.json` says.

    Returns:
        What `summary.json` says, `why_failed` where slides have failed, and `worklist`, the URI of the page; of several
        bundles the pages by bundle.
    """
    decisions = [of_the_archive(table, each.calibration) for each, table in zip(bundles, decisions, strict=True)]
    written = {
        bundle.folder: _write_summary(
            objects.join(out, bundle.folder) if bundle.folder else out, table, title=f"Worklist: {bundle.name}",
            run=page_facts(bundle, provenance=provenance, n_slides=n_slides), n_slides=n_slides,
            thumbnails="../evidence" if bundle.folder else "evidence", n_normals=largest_group(bundle.calibration),
            rate=provenance.get(FDR),
        )
        for bundle, table in zip(bundles, decisions, strict=True)
    }  # fmt: skip
    if len(bundles) == 1:
        return written[""]
    of_slides = slide_states(decisions)
    counts = summarize(of_slides, n_slides=n_slides) | {
        "anomalous": {folder: summary["anomalous"] for folder, summary in written.items()},
        "bundles": written,
        "combined": _write_combined(out, bundles, decisions, n_slides=n_slides, provenance=provenance),
    }
    objects.write_bytes(objects.join(out, SUMMARY), json.dumps(counts, indent=1).encode())
    return counts | _why_failed(of_slides) | {"worklist": {name: each["worklist"] for name, each in written.items()}}


def _write_combined(
    out: str, bundles: Sequence[ScreeningBundle], decisions: Sequence[pa.Table], *, n_slides: int,
    provenance: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Write the files for people of all bundles together."""
    by, calibration = combination.read_combination(out, provenance, bundles)
    table = combination.combined_decisions(bundles, decisions, by=by, calibration=calibration)
    n_normals = len(calibration.scores) if calibration else min(len(each.calibration.scores) for each in bundles)
    facts = page_facts(bundles[0], provenance=provenance, n_slides=n_slides)
    facts |= {
        "bundle": " + ".join(each.name for each in bundles),
        "detector": " + ".join(dict.fromkeys(each.bundle.detector.kind for each in bundles)),
        "alpha": combination.alpha_of(bundles, calibration),
        "n_calibration": n_normals,
        "calibration_id": combination.name_of(bundles, by, calibration),
    }
    del facts["score_low"], facts["score_high"], facts["tile_threshold"]  # of one bundle
    counts = _write_summary(
        objects.join(out, combination.FOLDER), table, title="Worklist: all bundles together", run=facts,
        n_slides=n_slides, thumbnails="../evidence", rate=provenance.get(FDR),
        n_normals=int(1 / combination.smallest_p(bundles, by, calibration)) - 1,
    )  # fmt: skip
    smallest = combination.smallest_p(bundles, by, calibration)
    return counts | {"by": by, "calibrated": calibration is not None, "smallest_p_value": smallest}


def _write_summary(
    folder: str, decisions: pa.Table, *, title: str, run: worklist.Run, n_slides: int, thumbnails: str, n_normals: int,
    rate: float | None,
) -> dict[str, Any]:  # fmt: skip
    """Write the files for people of one table of decisions.

    `thumbnails`: where these lie, seen from the page; `n_normals` and `rate`: see `write_discoveries`.
    """
    counts = summarize(decisions, n_slides=n_slides)
    objects.write_bytes(objects.join(folder, DECISIONS), parquet(decisions))
    page = write_worklist(
        folder, decisions, title=title, picture_kinds=_picture_kinds(decisions), run=run, thumbnails=thumbnails,
    )  # fmt: skip
    counts |= write_discoveries(folder, decisions, n_normals=n_normals, rate=rate)
    objects.write_bytes(objects.join(folder, SUMMARY), json.dumps(counts, indent=1).encode())
    return counts | _why_failed(decisions) | {"worklist": page}


def slide_states(decisions: Sequence[pa.Table]) -> pa.Table:
    """One row a slide for several bundles: that of the bundle whose state is the slide's, see `state_of_slide`.

    Args:
        decisions: of each bundle, the same slides in the same order.
    """
    slides = zip(*(table.to_pylist() for table in decisions), strict=True)
    rows = [max(of_slide, key=lambda row: _PRECEDENCE.index(row["state"])) for of_slide in slides]
    return pa.Table.from_pylist(rows, schema=decisions[0].schema)


def state_of_slide(states: Sequence[str]) -> str:
    """The state of a slide for several bundles: failed where one has failed, else scored where one has scored it."""
    return max(states, key=_PRECEDENCE.index)


_PRECEDENCE = ("not_assessable", "scored", "failed")


def pages(summary: dict[str, Any]) -> str:
    """Where the worklists of a summary are, for a message."""
    worklists = summary["worklist"]
    return worklists if isinstance(worklists, str) else ", ".join(worklists.values())


def _picture_kinds(decisions: pa.Table) -> tuple[str, ...]:
    """Which pictures the evidence tiles have: those of a detector without a generator have no reconstruction."""
    has_tiles = has_none = has_difference = has_cells = False
    n_normals = 0
    for text in pc.unique(decisions["evidence"]):
        for tile in json.loads(text.as_py() or "[]"):
            has_none = (has_none or not has_tiles) and not tile.get("has_reconstruction", True)
            has_difference |= bool(tile.get("has_difference", False))
            has_cells |= bool(tile.get("has_cells", False))
            n_normals = max(n_normals, len(tile.get("normals", ())))
            has_tiles = True
    differences = DIFFERENCE_KINDS if has_difference else ()
    cells = ("cells",) if has_cells else ()
    reconstruction = () if has_none else ("reconstruction",)
    return ("tile", *reconstruction, *differences, *cells, *NORMAL_KINDS[:n_normals])


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


def page_facts(bundle: ScreeningBundle, *, provenance: dict[str, Any], n_slides: int) -> worklist.Run:
    """What the page says about the screening."""
    described, calibration = bundle.bundle, bundle.calibration
    return {
        "bundle": described.name,
        "detector": described.detector.kind,
        "alpha": calibration.alpha,
        "n_calibration": len(calibration.scores),
        "calibration_id": calibration.id,
        "version": __version__,
        "fingerprint": provenance["fingerprint"],
        "started": provenance["started"],
        "finished": now(),
        "n_manifest": n_slides,
        "tile_um": described.tiles.tile_px * described.tiles.mpp,
        "score_low": calibration.tile_median,
        "score_high": calibration.tile_high,
        "has_cells": calibration.cell_scale is not None,
        "tile_threshold": calibration.tile_p99,
        "viewer": _viewer(bundle, provenance),
    }


def _viewer(bundle: ScreeningBundle, provenance: dict[str, Any]) -> str | None:
    """Where an endpoint shows a bundle's slides; None where the record names none, or what is no such address."""
    try:
        return bundle_address(checked_viewer(str(provenance.get("viewer") or "")), bundle.folder)
    except InputError:
        return None


def now() -> str:
    """The time, as people read it."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _why_failed(decisions: pa.Table, n: int = 3) -> dict[str, str]:
    """The first slides that failed, each with its reason, and how many more; nothing where none has."""
    columns = decisions.filter(pc.equal(decisions["state"], "failed")).select(["slide_id", "reason", "message"])
    failed = columns.to_pylist()
    if not failed:
        return {}
    named = "; ".join(f"{row['slide_id']}: {row['reason']}: {row['message']}"[:300] for row in failed[:n])
    return {"why_failed": named + (f" and {len(failed) - n} more" if len(failed) > n else "")}
